"""Texts and JSON that others wrote.

strict_json  a request body as JSON with one meaning (api, cli, workflows)
stored_json  records that other versions wrote (core.buckets, tasks)
excerpts     texts cut to a bearable length (core.contracts, tasks)
discretion   texts without addresses and paths of the fleet (tasks)
spreadsheets  texts as cells of tables (api)
cards        names of GPUs in ComfyUI's words (core.ledger, cli)
json_types   names for JSON whose fields are not ours to say (all)
"""
