"""Files of the fleet: what clients bring, what jobs make.

folders  files by key below one directory (api, tasks)
placing  where output files are, and how they come to their places (tasks)
marker   whether the storage in sight is the fleet's (api, tasks)
media    what a file holds, by its first bytes (api)
backend  the storage seam and what it asks of a backend (api, tasks)
"""
