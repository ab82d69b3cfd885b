"""Batches over HTTP: many jobs from one request.

routes  what clients ask (this only translates)
views   what they get
"""
