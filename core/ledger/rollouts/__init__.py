"""Rollouts, and the processes that they renew.

rollouts   ledger.rollouts: begun, gone on with, ended (API, reconciler, io workers)
processes  ledger.processes: which there are, and what is wanted of each (all processes)
rolling    what a rollout does next: pure decisions (rollouts)
fleet      the living processes, and what became of jobs of late (rollouts)
"""
