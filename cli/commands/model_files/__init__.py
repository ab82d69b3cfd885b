"""The manifest of model files, and what its sources are asked with.

manifest_commands  comfyline models (cli.main)
token_commands     comfyline models tokens (manifest_commands)
"""
