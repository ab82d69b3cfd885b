"""A GPU worker's main process: owns one ComfyUI instance and tells the ledger how it is.

agent            commands, the supervisor's news, the heartbeat (bootsteps, control)
bootsteps        the agent's place in Celery's worker (worker)
control          operators' commands through Celery's remote control
reporting        the instance's row in the ledger (agent)
admission        whether it takes jobs, and why not (agent, reporting)
tenure           the instance's name, and which worker has it (worker, reporting)
release          jobs given back (agent)
first_turn       one that takes jobs again has the first at once (agent)
housekeeping     free room, old files, the log (agent)
catalogue_watch  new files in its folders, and new folders (agent)
probe            version, device, nodes after a start (agent, catalogue_watch)
warmup           the warm-up after each start (agent)
plan             which instances this machine runs (worker, cli)
directory_lock   one worker for each directory (worker)
"""
