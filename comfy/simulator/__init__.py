"""A ComfyUI server without a GPU, true to its HTTP, websocket and errors; imports nothing of ours.

__main__         `python -m comfy.simulator`
server           puts the routes together and serves them
routes/          the HTTP routes and the websocket
execution/       queue, checks and the run of a graph
nodes/           the node classes
media/           pictures, files and timings that nodes make
machine/         what all parts share: options, GPU memory, sockets, faults
"""
