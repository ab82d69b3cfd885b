"""Files of the fleet: what clients bring, what jobs make.

folders  files by key below one directory (api, tasks)
placing  where output files are, and how they come to their places (tasks)
marker   whether the storage in sight is the fleet's (api, tasks)
trial    whether a storage takes a file and gives it back (cli)
media    what a file holds, by its first bytes (api)
backend  the storage seam and what it asks of a backend (api, tasks)
"""
