"""Celery as we use it: all of tasks that the API may import.

app              the Celery app of a process, by its role (worker, api, cli)
context          what one process holds: role, runtime, agent, runner (all rooms)
names            names of queues and tasks
publish          turns and steps published, with ids only
remote_control   asks a GPU's worker to do something (api)
consumer         Celery's consumer, which foreign messages do not end (worker)
inbound          which messages are let in (consumer)
redelivery       kombu's redelivery on Redis, made harmless (app)
wrong_keys       keys in Redis that hold no queue (consumer)
ticks            when beat publishes (app)
"""
