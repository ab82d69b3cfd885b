"""ComfyUI's HTTP side: one method for each route, every foreign error wrapped.

client        the routes (prompts, process, tasks)
transport     connections, retries, errors (client)
timeouts      how long each kind of answer may take
capabilities  what this server can do (client)
replacements  classes of the past, and what stands in their place (client)
rejection     a refused prompt or upload, as our errors
history       one entry of the history, and the error it stands for (prompts)
outputs       a history entry's results as one flat list (tasks.runner)
printed       what it has printed (tasks.runner)
inputs        input files put onto an instance (tasks.runner)
"""
