"""What clients cost that are there and ask for nothing.

websockets  a thousand of ComfyUI's own protocol, at one process of the API
"""
