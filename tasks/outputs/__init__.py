"""A job's files after the GPU: finished, stored, put into buckets (tasks.upload).

store          moved into storage, hashed, never half written
finishing      converted and freed of metadata where wanted (tasks.upload)
convert        WebP, JPEG or PNG (finishing)
metadata/      embedded metadata taken out (finishing)
bucket_upload  into the client's bucket, or the operator's
endpoints      threads that each bucket endpoint may hold (bucket_upload)
workplace      what waits on this machine for a bucket that is the storage
slow_turns     jobs told early of a storage that is away
upload_tries   how often, and when it is given up
"""
