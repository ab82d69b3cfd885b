"""One ComfyUI instance: its process, its HTTP and websocket, its prompts; knows neither jobs nor Celery.

process/      start, probe, replace and end an instance (tasks.instance)
prompts/      run prompts and learn how they go (tasks.runner)
client/       its HTTP routes (all rooms)
model_files/  the models of its host: fetched, kept, sent away (tasks.models)
liveness/     slow or stuck, busy or dead
simulator/    a ComfyUI without a GPU: the oracle of tests, and `comfyline up` without hardware
"""
