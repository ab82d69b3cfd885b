"""The processes that do the work: GPU workers, io workers, the reconciler.

worker        which process runs what (cli)
generate      the task of the GPU queue: use one turn
upload        the task that stores and uploads a job's files
check_upload  the task that looks at a file which a client has put into the bucket
notify        the task that has webhooks sent
reconcile     the task that puts right what was lost, every few seconds
instance/     a GPU worker's main process: owns one ComfyUI instance
runner/       a GPU worker's pool process: runs jobs
outputs/      files: converted, stored, uploaded
webhooks/     posts
reconciling/  the longer steps of reconcile
models/       the model files of a host: fetched and sent away (instance, runner)
judging       graphs judged against the present catalogues (runner, reconciling)
job_errors    a failed job's error in the ledger (runner, outputs)
runtime       what the tasks of one process share
messaging/    Celery's app, names, publishing: all that api imports
take_back     jobs of lost workers, sent on their way (reconcile, instance)
"""
