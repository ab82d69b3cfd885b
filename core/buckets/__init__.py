"""Files into S3 buckets.

put_urls   URLs that a client has signed, in place of credentials
dialect    how S3 is spoken to servers of all kinds (bucket, core.storage)
bucket     one bucket: files put, links made (tasks.outputs)
presigned  files put to signed URLs (tasks.outputs)
block      the S3 block of a request, or the operator's (api, tasks.outputs)
"""
