"""Comfy API v2: jobs, assets and events over HTTP.

job_routes  submit, list, look up, cancel, delete jobs
assets      files that come in; metadata and bytes of all files
upload_routes  files straight into the bucket: announced, finished
events      a job's event log as server-sent events (job_routes)
feed_route  news of all jobs as one stream
dry_run_views  what would become of a job (job_routes, templates, batches)
views       jobs, lists and assets as answers (all contracts)
"""
