"""What the benches of the scheduling policy share.

rules    other rules than ours: first in first out, warm first, SwarmUI's
drawing  the picture of waits over load
autoscale  waits and GPU hours of a day under ours and under queue length: the bench of it
day      a day of a fleet that grows and shrinks, and rules for that
day_drawing  the picture of it
batch_growth  what each job of a batch takes in the ledger, by table: the bench of it
large_batch  what a batch of 10,000 jobs costs while it runs: the bench of it
"""
