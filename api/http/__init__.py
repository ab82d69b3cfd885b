"""What every route needs, whatever its contract.

auth             API keys and scopes, and no pages of other sites (before each request)
key_ring         the keys as one process knows them (auth)
request_limits   requests in a minute: refused, and told in headers (auth)
request_counts   how many there were, in all processes (request_limits, service)
scopes           which scope a route needs (auth, schema, server)
forwarded        whose request it is, where a trusted proxy hands it on (app)
hosts            names and addresses that an open server answers to (auth)
cross_origin     pages of other sites that an operator lets in (auth)
signed_links     requests that come by a signed link (auth, contracts)
request_log      one log line for each request, and its reference
json_body        a body's type, size, time and JSON (contracts)
forms            multipart forms, written to disk while they arrive (contracts)
files            bytes of stored files: whole, a range, not modified (contracts)
errors           errors that only a request can meet, and the status of every error
error_shapes     how each contract tells of an error (contracts, server)
error_handlers   every error of the application as an answer
time_limits      bounds on work that a frozen peer could hold up (all rooms)
storage_limit    nobody waits for a bucket that is away (api)
ledger_slots     how many requests use the ledger at once (time_limits)
cached           a value that is loaded anew about once a second (service)
lookups          host names looked up in real threads, outside gevent (wsgi)
caller           who asks, the client's idea of our address, and whether it is still there
"""
