"""What the parts of one simulated server share.

machine        everything below, in one object
options        the command line
versions       what the simulated release does differently
node           a node class, and what its function gets and gives
node_progress  how far each node is
running_graph  the running graph, which nodes may extend
vram           the GPU: its clock, and what loading costs
model_store    where weights are: disk, RAM, VRAM
extra_paths  folders of models that a file names (options)
load_costs     how long loading takes, and how often it happened
hub            the websockets
faults         ordered faults, for tests
paths          files in the input, output and temp folders
model_list     the models it claims to have
"""
