"""Batches in the ledger: many jobs from one request.

A batch is no queue: its children are jobs like any other, each with its place in the batch, and with what is different
of its graph from one that they share. The row of a batch says what they have in common, and how they ended.

batches  look up, list, count, pause (API)
children  the jobs of a batch, by their places (API)
varied   which of them were made with a value (children)
intake   record a batch, or further jobs of one, whole or not at all (API)
work     what takes more than one transaction: cancel, retry; and what is left of it (API, reconciler)
secrets  what children that come later need (intake, work)
"""
