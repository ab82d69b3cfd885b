"""Graphs and templates of ComfyUI, without any server.

editor/     documents of ComfyUI's editor: converted to graphs (api, cli)
graphs/     graphs: read, checked, rewritten (api, tasks)
batches/    many jobs from one: what is varied, and where it goes (api)
templates/  templates: found, described, filled (api, cli)
"""
