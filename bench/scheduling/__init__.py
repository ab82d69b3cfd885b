"""What the benches of the scheduling policy share.

rules    other rules than ours: first in first out, warm first, SwarmUI's
drawing  the picture of waits over load
"""
