"""The message broker, apart from Celery.

notices        change notices that wake waiters (api, tasks)
broker_errors  what a broker in trouble makes kombu raise (api, tasks)
broker_tls     how a broker is spoken to by TLS (all)
brief_connection  a connection for one question (broker_trial, queue_depths)
queue_depths   how many messages wait in queues (api)
broker_trial   one try at the broker, in short time (api, cli)
broker_guard   messages that are none do not end their reader (api, tasks)
"""
