"""The server itself: what operators and programs ask beside any contract.

metrics/            metrics of the whole fleet, for Prometheus
health              whether this process lives, and whether the fleet takes and runs jobs
readiness           what of the fleet answers, and what does not (health)
docs_page           `/openapi.json`, and `/docs` from one page without outside parts
console_page        the console's files
openapi_document    what the router serves, as OpenAPI (docs_page)
openapi_operations  one route in it (openapi_document)
document_parts      schemas within it (docs_page, shell_commands)
shell_commands      a line for a shell to each route (docs_page)
"""
