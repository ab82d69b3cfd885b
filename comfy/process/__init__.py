"""One ComfyUI process from its start to its end.

supervisor      keeps an instance alive from one thread (tasks.instance)
instance        start, probe, stop (supervisor)
spec            directories, command line, environment (instance, tasks.instance)
child           one child process, ended as a whole (instance)
spawner         forks from one thread that never ends (child)
launch          the instructions between fork and ComfyUI (spawner)
start_failures  pauses and quarantine after failures (supervisor)
discovery       the machine's NVIDIA GPUs (tasks.instance)
vram            how much memory of its GPU is in use (tasks.instance)
ports           free loopback ports, and who listens (instance)
log             the log file, rotated and quoted (instance)
model_paths     models that all instances share (spec)
cleanup         old files and free room (tasks.instance)
"""
