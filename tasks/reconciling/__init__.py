"""Steps of the reconciler that work through many rows (tasks.reconcile).

deadlines  jobs that nobody has begun in time, ended within a second (tasks.worker too)
expiry     what is past its time, removed in small steps
repinning  waiting jobs judged again when the fleet has changed
relining  waiting jobs led into the lines of their models
regrouping  waiting jobs led to where what ran out of memory wants them
"""
