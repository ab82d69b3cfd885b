"""The server itself: what operators and programs ask beside any contract.

health              whether this process lives, and whether the fleet takes and runs jobs
docs_page           `/openapi.json`, and `/docs` from one page without outside parts
document_parts      schemas as the page shows them (docs_page)
openapi_document    the OpenAPI document of all routes (docs_page)
openapi_operations  one route in it (openapi_document)
readiness           whether the fleet takes and runs jobs (health)
shell_commands      a command line for each route (docs_page)
"""
