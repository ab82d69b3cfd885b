"""What a job costs the ledger and the broker, on ten GPUs and on three hundred.

job_cost      the bench of it
light_comfy   a ComfyUI that is nothing but its answers, for many GPUs in one process
light_workers GPU workers as they are, but for Celery and ComfyUI: many in one process
meters        what PostgreSQL, RabbitMQ, Redis and processes have done so far
fleet_costs   a fleet of so many GPUs, measured: idle, with jobs that come one by one, and full
cost_table    the table of it in docs/scale.md
cost_drawing  the picture of it
"""
