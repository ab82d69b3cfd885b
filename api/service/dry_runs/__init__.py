"""Requests for jobs that are judged as if they were submitted, of which nothing is kept.

asked           whether a request is a dry run (contracts)
job_trial       the run itself: all checks of a submission, and what would become of it (contracts)
batch_trial     the same of many jobs at once (contracts)
trial_files     files that are looked at and not kept (job_trial, batch_trial)
kinds_of_gpus   which GPUs could run a graph, and what the others lack (job_trial)
missing_things  what is not there, and where it is (kinds_of_gpus)
"""
