"""Documents of ComfyUI's editor, converted to graphs as the editor itself does when it queues them.

convert       a document and a catalogue in, a graph out (api, cli)
document      the shape of a document: nodes, links, subgraphs
refusals      what cannot be converted, by node and reason
canvases      the nodes of a document laid out
nodes         nodes, slots, links and canvases
layout        the slots and widgets that a class has in the editor
declared      what `/object_info` says of a class's inputs, in the editor's order
widgets       widgets, and which types of inputs have one
own_options   the options of a CustomCombo
stored        the values of widgets as a document stores them
promoted      widgets that subgraphs show on their outside
node_ids      ids within subgraphs, made unique as the editor does
primitives    primitive nodes, which give their value to widgets
execution     the nodes that run, each subgraph laid open
upstream      where a link comes from, through all that does not run
connections   which types of slots go together
texts         texts that the editor fills in when it queues
"""
