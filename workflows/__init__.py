"""Graphs and templates of ComfyUI, without any server.

graphs/          graphs: read, checked, rewritten (api, tasks)
templates/       templates: found, described, filled (api, cli)
"""
