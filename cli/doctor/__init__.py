"""`comfyline doctor`: what is looked at, here and in the fleet, and what there is to change.

findings   what a check finds; checks run side by side, each for a few seconds
own_settings  the settings of this machine, its data directory, its name
servers    database, clocks, secret key, broker, storage
own_gpus   the GPUs and the ComfyUI of this machine, and the disks
model_sources  whether this machine would get the files of the manifest
condition  a fleet that runs: GPUs, jobs, webhooks, io workers, beat
api_side   what the API says of itself, and Flower
rounds     which checks are made: before a GPU host starts, and by `comfyline doctor`

A rule that a process goes by at its start, or while it runs, is asked of the code that has it.
"""
