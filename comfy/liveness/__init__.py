"""Telling slow from stuck and busy from dead.

procfs           processes as /proc shows them (process)
activity         how much a family of processes works
watchdog         a prompt that is slow, or stuck (prompts)
muteness         an instance that is busy, or dead (process)
"""
