"""The HTTP contracts: blueprints that translate between requests and the service, and do nothing else.

comfy_v2/        Comfy API v2: jobs, assets, events; the base of the others
generate/        the `/generate` family
pyworker/        the PyWorker contract, which also answers in words of `/generate`
templates        the workflow templates, and a job from one
deliveries       webhook deliveries: list, send again, forget
delivery_views   what those answer (deliveries)
gpu_views        how a GPU is shown (gpus)
model_files      the manifest of model files for operators
model_tokens     the tokens of its sources for operators
access           tenants and keys for operators
gpus             the fleet's GPUs for operators: list, drain, resume, restart
"""
