"""The PyWorker contract over HTTP.

tasks            graphs of the client's own, tasks, files by their path
prompt           `/prompt`: values into the default workflow, pictures in the answer
"""
