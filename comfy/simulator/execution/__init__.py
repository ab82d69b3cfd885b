"""From a submitted graph to its history entry.

graph_validation  the checks, to the letter of their replies (routes)
replacements     classes of the past, replaced before the checks
prompt_queue     waiting, running and finished prompts (routes)
prompt_worker    the one thread that runs them
executor         runs one prompt, node by node (prompt_worker)
run_order        which node is next (executor)
cache            what nodes returned, for later prompts (executor)
run_result       how a prompt ended (executor)
"""
