"""The scheduling policy with the ledger under it: what it looks at is read here, and what it decides is written.

lines       lines of waiting jobs, and which of them have any
line_changes  how many jobs stand in each line, read as it changes (lines)
reach       which lines instances can run, and whose models they hold
lessons     what running out of memory teaches: which kinds of GPU jobs are kept off
presence    which sorts of GPUs there are for them
learned     how long jobs run and models load
picture     the fleet at one moment, for the policy
gates       how many jobs of a tenant or a batch run at once at most, and how many do (picture, choice, turns, outlook)
batch_lines  the jobs of batches with gates, led into lines of their own
avoidance   what an instance lost lately is left to others (turns, choice)
used        what tenants used of late, read and charged (picture, choice, outlook)
choice      which job an instance takes, inside of its claim
file_needs  which model files are waited for, and where they could be fetched
turns       which turns are to be published
mending     lines made right after processes of an earlier version
outlook     the policy run forward: where jobs stand, when they begin, and why they wait
newcomers   jobs that nobody has submitted, as if they came now (outlook)
heads       the jobs that are next in each line, and where in its line a job stands (outlook)
fetching    how model files come along that jobs wait for (outlook)
fleet       the GPUs as a forecast looks at them (outlook)
scaling_reader  what each pool of GPUs has and wants, and which hosts may go
"""
