"""Model files that the fleet fetches: what an operator may enter.

entries  the guards of the manifest: paths, formats, sources (api, tasks.models)
sources  what a source's URL means (entries, tasks.models)
"""
