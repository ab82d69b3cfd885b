"""Many jobs at once.

over_values     the values of what is varied
submitting      submit --over: its options, and what they make of a file or a workflow
sending         a batch, followed to its end, and taken up again
batch_commands  batches: list, show, cancel, pause, resume, retry
result_commands  what a batch made: outputs, table, sheet (batch_commands)
"""
