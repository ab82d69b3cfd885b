"""Renewing the fleet's processes, host after host: `comfyline rollout`.

gpu_renewal    a GPU worker in a rollout (tasks.instance)
process_watch  a process says that it is there, and hears what a rollout wants of it (all processes)
api_renewal    the API in a rollout (api)
anew           a process starts anew, with the code that is there now (process_watch, tasks, api)
"""
