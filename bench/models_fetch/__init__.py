"""How fast a model file comes to a GPU host.

server  what it comes from
"""
