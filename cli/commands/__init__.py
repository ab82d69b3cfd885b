"""The commands, one module each or for a family; `cli.main` finds them by name.

up            the whole stack in the foreground
services      one process each: api, worker, io, beat, flower
installation  doctor: what is wrong here, or in the fleet; version
demo          start, make one picture, stop
submit        run a graph, or queue it as a task
run           run a server's workflow by its name; upload a file
job_commands  status, watch, cancel, delete, list
task_files    query, download, download-all, download-from-json
gpus          look at GPUs; drain, resume, restart
access/       tenants and keys: who may ask a server
model_files/  the manifest of model files, and the tokens of its sources
webhooks      deliveries: which arrived, and sending again
templates     check template files, propose a sidecar, list a server's
storage       the files of a directory into a bucket
shared        options and helpers of all that talk to a server
"""
