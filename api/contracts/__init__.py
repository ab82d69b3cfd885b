"""The HTTP contracts: blueprints that translate between requests and the service, and do nothing else.

comfy_v2/        Comfy API v2: jobs, assets, events; the base of the others
generate/        the `/generate` family
comfyui/         ComfyUI's own protocol: the fleet as if it were one ComfyUI
pyworker/        the PyWorker contract, which also answers in words of `/generate`
mcp/             the Model Context Protocol: the fleet as tools of agents
router/          models as the official SDK runs them: each is a template
templates        the workflow templates, and a job from one
conversion       what the editor saves, converted to a graph
batches/         many jobs from one request
deliveries       webhook deliveries: list, send again, forget
delivery_views   what those answer (deliveries)
gpu_views        how a GPU is shown (gpus)
model_files      the manifest of model files for operators
model_tokens     the tokens of its sources for operators
access           keys for operators
session          signing in from a browser
rollouts         the processes of hosts renewed, one host after the other
history          the last hour of the fleet in samples, for operators
tenants          tenants for operators, and what each has left
usage            what tenants used
usage_views      what that answers, also as CSV (usage)
audit            who did what, for operators
bulk             a job once more; many jobs cancelled or deleted at once
batch_results    what the jobs of a batch made: archive, table, contact sheet
autoscale        how many GPUs each pool wants, and the hosts that it gives back
autoscale_views  what that answers (autoscale)
gpus             the fleet's GPUs for operators: list, drain, resume, restart
"""
