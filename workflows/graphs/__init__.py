"""Graphs in the API format.

graph            nodes, links, and which of them will run (all)
checks           refuses what ComfyUI would refuse (api, tasks)
catalogue        `/object_info`, quick to check against (checks)
certainty        what `/object_info` says for sure (catalogue, values)
values           whether an input accepts a value (checks)
structured       `name.part` inputs of the V3 schema (checks)
node_errors      the findings in ComfyUI's words (checks)
boundaries       what a graph may not reach (checks)
fetchable        graphs that lack nothing but files that can be fetched (api, tasks)
file_names       safe names of input files (boundaries, api)
misplaced        a graph that stands in the wrong place (api)
model_files      which model files it loads (tasks)
references       assets, URLs and data it refers to (api)
rewrite          a graph made one job's own (tasks)
shape            what decides how long it takes (api)
temporary_files  files that come and go (api, tasks)
"""
