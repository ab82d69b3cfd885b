"""The router contract of the official SDK's `client.models`: each workflow template is a model that can be run.

model_routes  the catalogue, a run that waits, and one that is queued
requests      a run's job: its request, its answer, and what its end means (model_routes)
catalogue     which models there are, and the document of each (model_routes)
failures      the buckets of errors, in the headers and bodies of this contract
"""
