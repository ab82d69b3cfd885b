"""Embedded metadata taken out of files, without touching what they show or play.

strip            by kind of file (tasks.outputs.finishing)
pieces           what strippers share
images           PNG, JPEG, WebP, GIF
sounds           FLAC, MP3, Ogg, WAV
films            MP4, MOV, WebM, Matroska
json_headers     GLB, safetensors
"""
