"""Files of the fleet: what clients bring, what jobs make.

backend           the storage seam and what it asks of a backend (api, tasks)
folders           files by key below one directory (backend)
objects           files by key in a bucket (backend)
object_client     its connections, and its errors in words (objects)
object_reader     an object as an open file (objects)
multipart         uploads in parts, as S3 has them (sending, direct_uploads)
sending           files into the bucket, in parts that outlive a process (objects)
direct_uploads    files that clients put into the bucket themselves (api, checking)
checking          whether these are what their clients say (api, tasks)
input_cache       input files of a bucket that a GPU host keeps (tasks)
placing           where output files are, and how they come to their places (tasks)
media             what a file holds, by its first bytes (api)
marker            whether the storage in sight is the fleet's (api, tasks)
marked_directory  the marker in a directory (marker)
marked_bucket     the marker in a bucket (marker)
trial             whether a storage takes a file and gives it back (cli)
"""
