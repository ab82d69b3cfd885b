"""Model files that the fleet fetches: what an operator may enter, and which host fetches what.

entries   the guards of the manifest: paths, formats, sources (api, tasks.models)
needs     which files a host fetches (core.ledger, tasks.models)
stays     which files stay when room is needed (tasks.models)
yielding  which files in use go in the end all the same (core.ledger, tasks.models)
sources   what a source's URL means (entries, tasks.models)
"""
