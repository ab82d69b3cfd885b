"""Files into S3 buckets.

target           the bucket of a request, or of the environment (api, tasks.outputs)
put_urls         URLs that a client has signed, in place of credentials
bucket           one bucket: files put, links made (tasks.outputs)
presigned        files put to signed URLs (tasks.outputs)
"""
