"""Jobs in a runner's hands: who is here, whose files are on their way, who is next, and whether to claim more.

run            one attempt, from its claim to its end (runner)
lineup         all of them, and who is posted next (runner, look_ahead)
look_ahead     jobs claimed before the GPU needs them (runner)
fetching       input files brought beside what the instance does (runner)
arrivals       what is told of files on their way (fetching)
staging        a job's input files, brought to the instance (runner, fetching)
early_outputs  what nodes have made while the job runs (recorder)
"""
