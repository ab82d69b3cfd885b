"""The commands, one module each or for a family; `cli.main` finds them by name.

up            the whole stack in the foreground
services      one process each: api, worker, io, beat, flower
installation  doctor: what is wrong here, or in the fleet; version
demo          start, make one picture, stop
submit        run a graph, or queue it as a task
run           run a server's workflow by its name; upload a file
dry_runs/     whether some GPU can run a workflow, without running it
job_commands  status, watch, logs, cancel, delete, list
bulk          rerun; purge, and what cancel and delete do by filters
task_files    query, download, download-all, download-from-json
gpus          look at GPUs; drain, resume, restart
scaling/      how many GPUs are wanted, hosts to give back, all of them renewed; a worker of Vast.ai
batches/      many jobs at once: submit --over, the commands that look after them, and what they made
access/       tenants and keys: who may ask a server, what they used, and who did what
model_files/  the manifest of model files, and the tokens of its sources
webhooks      deliveries: which arrived, and sending again
templates     check template files, propose a sidecar, list a server's
safekeeping/  copies of the ledger, and of the fleet's files
shared        options and helpers of all that talk to a server
"""
