"""The model files of a GPU host: fetched from their sources into one folder, which its instances read.

cache     what lies in the folder, and what of it is ours (tasks.models)
sharing   which hosts share the folder (tasks.models)
download  one file, in parallel ranges, taken up again where it was (tasks.models)
journal   which parts of a file are there already (download)
remote    what a source answers (download)
refusals  why a source gives no file, from its answer (remote)
offers    whether what a source offers is what the manifest says (download, tasks.models)
"""
