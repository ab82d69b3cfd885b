"""The message broker, apart from Celery.

notices          change notices that wake waiters (api, tasks)
broker_errors    what a broker in trouble makes kombu raise (api, tasks)
broker_guard     messages that are none do not end their reader (api, tasks)
"""
