"""The model files of a GPU host: one of its workers fetches what its pool keeps and what waiting jobs need.

fetcher    decides what comes when, and tells the ledger how it goes (instance)
fetch      one file under way (fetcher)
pace       how it comes along, and whether it is too slow (fetch)
failures   what could not be fetched, and when it is tried again (fetcher)
room       makes room for a file: the longest unused go first (fetcher)
yielding   has files in use make room for what was waited for too long (fetcher)
addresses  where a source is got, and with which token (fetcher)
trial      asks sources whether they would give their files (cli.doctor)
uses       notes which files jobs load (runner)
"""
