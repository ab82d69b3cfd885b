"""Where the time of a job went, told as spans of the trace it belongs to.

spans      begun and ended by those who work for a job (api, tasks)
exporting  OpenTelemetry itself (spans, where it is wanted)
"""
