"""Commands for what must not be lost: copies of the ledger and of the fleet's files.

backup   the ledger of SQLite into a file to keep, and back
storage  the files of a directory into a bucket
"""
