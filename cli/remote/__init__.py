"""The client of a server: any that speaks Comfy API v2, ours for the rest.

placement      the flags that say when and where a job begins (commands)
client         submit, follow, cancel, list, fetch (commands)
answers        a job or an object from an answer, or its error (client)
task_client    the PyWorker contract: tasks and their files (commands)
batch_client   batches: submit, follow, their jobs (commands)
sse            server-sent events as they come (client)
error_answers  what an error answer says (client)
download       one file: resumed, checked by its hash (client)
written_files  files written whole, inside their folder (client, commands)
local_files    files of this machine that a job needs: sent, and named in its graph (commands)
multipart      a form that is sent while it is read (client)
job_ids        ids by their beginning (commands)
list_filters   the filters of `comfyline list` (commands)
task_values    the flags of `comfyline submit --workflow` (commands)
"""
