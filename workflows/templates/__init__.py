"""Workflow templates: graphs with open parameters.

library          templates of directories, kept up to date (api)
template         a graph, its parameters, and how they are filled
template_files   templates read from files, faults by line (library, cli)
sidecar          the description beside a graph (template_files)
parameters       typed parameters (sidecar, template)
json_schema      parameters as JSON Schema (template)
fill             values put where placeholders are (template)
attachments      files a template brings along (library)
modifiers        named ways from a few values to a graph (api)
proposal         a sidecar proposed for a plain graph (cli)
samples          the sample workflows (cli, tests)
"""
