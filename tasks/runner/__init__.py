"""A GPU worker's pool process: claims jobs and runs them on its instance.

runner        one prompt running, one more behind it, others whose files are fetched (tasks.generate)
claimed/      jobs in the runner's hands: files on their way, who is next, whether to claim more (runner)
claiming      claims as they are seen from outside (runner)
printing/     what ComfyUI prints while jobs run (runner)
connection    the session with the instance as it is now (runner)
leases        claims kept alive; hears that a job is to stop (runner)
reporter      progress to the ledger and to clients (runner)
run_times     how long prompts take here (runner)
collect       a prompt's files into the job's folder (runner)
output_files  which files a prompt has made (recorder)
direct_store  small files into storage at once (recorder)
attempt_end   how an attempt ended (runner, recorder)
recorder      the end of an attempt, into the ledger (runner, tasks.generate)
recovery      memory freed, instance watched or condemned (runner)
distress      the pipe by which it is condemned (recovery, tasks.instance)
sigterm       a group's SIGTERM kept from a job that drains (tasks.generate)
"""
