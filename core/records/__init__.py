"""What is known of a job, typed and frozen: one record from the request's body to the ledger, and those it holds.

They serialise themselves, and ignore what they do not know when they are read.

access          Tenant, Key, and the Caller of a request (api, core.ledger)
tenant_limits   TenantLimits, what a tenant may have at most (api, core.ledger, core.settings)
job_request     JobRequest, what a client wants; AcceptedJob, with what the check adds (api, core.ledger)
job             Job, the statuses, and which may follow which (all)
batch           Batch, many jobs from one request, and NewBatch, whose jobs were checked (api, core.ledger)
job_error       JobError, Loss, JobWarning: what went wrong (tasks, core.ledger, core.contracts)
output          OutputFile on its way, Output in storage, BucketResult (tasks, core.ledger, api)
output_options  what is to become of the outputs (api, tasks.outputs)
progress        Progress, the last snapshot of a run (tasks.runner, core.contracts)
printed         PrintedPiece and PrintedLines, what ComfyUI printed (tasks.runner, core.ledger, api)
requirements    Requirements of a GPU, and KnownGpu, what a job may find (api, core.ledger, workflows)
usage           GpuTime, how long an attempt had a GPU (tasks.runner, core.ledger)
act             Act, a line of the book of acts, and its Actor (api, core.ledger)
instance        InstanceRecord, a ComfyUI with its worker, and HeldModel (api, core.ledger, tasks)
scaling_rules   ScalingRules, what an operator says of scaling (core.settings, core.ledger)
rollout         Rollout, an order to renew hosts, its RolloutHost, and FleetProcess (core.ledger, core.rollouts, api)
model_file      ModelFile, an entry of the manifest, and ModelCopy, what a host has of it (api, core.ledger, tasks)
direct_upload   DirectUpload, a file on its way into the bucket, and what its client says of it (api, core)
webhook_target  the receiver of a job's events (api, core.ledger, tasks.webhooks)
webhook_events  the names of the events (api, core.ledger)
bucket_target   where in which bucket, and with which credentials (api, core.buckets, tasks.outputs)
"""
