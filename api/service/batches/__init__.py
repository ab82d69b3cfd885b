"""Batches: many jobs from one request, checked by what differs, recorded whole or not at all.

drafts   the requests of a batch's jobs, from its body
checks   whether all of them can run, judged once for those that are alike
naming   which job an error is about
causes   why jobs failed
outlook  how long a batch will take
service  submit, add, cancel, retry
"""
