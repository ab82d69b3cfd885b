"""The node classes of the simulator.

registry         all of them together (server)
loaders          model files
conditioning     texts and pictures that steer
latent           latents
samplers         samplers and what steers them
pictures         real work on pictures
files            uploads read, pictures saved
folders          files without an upload button
media_files      outputs other than single pictures
plain_values     single values, and inputs that depend on others
packs            as popular packs behave
odd              results in odd shapes
misbehaving      slow, failing, mute, blocking
simulated_work   takes as long as it is told
"""
