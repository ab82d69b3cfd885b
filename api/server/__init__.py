"""The server itself: what operators and programs ask beside any contract.

health           whether this process lives, and whether the fleet takes and runs jobs
docs_page        `/openapi.json`, and `/docs` from one page without outside parts
"""
