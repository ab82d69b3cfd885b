"""The simulator's HTTP side.

prompt_routes   queue, interrupt, look up prompts
job_routes      `/api/jobs` of newer releases
job_outputs     what a job put out, summed up (job_routes)
file_routes     uploads and downloads
info            the server, its nodes and models
model_routes    the model files, and what is loaded of them
socket          the websocket
screening       what stands before all handlers
ordered_faults  `/simulator/faults`, which ComfyUI lacks
"""
