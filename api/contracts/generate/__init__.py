"""The `/generate` contract over HTTP.

routes           submit, result, cancel, and `/generate/sync`
stream           `/generate/stream`: one request that follows its job to the end
results          what each answers, and how it is built (routes, stream, pyworker)
request          the body of a request, read (routes, stream)
"""
