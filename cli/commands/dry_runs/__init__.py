"""Whether some GPU can run a workflow, without running it.

check           the command (main)
dry_run_client  a server's dry runs, with files of this machine sent along (check)
"""
