"""A worker of Vast.ai's serverless platform before a Comfyline server: requests come signed, load is reported.

place       what the platform says of this worker in its environment
signatures  whether a request is the platform's, and new
load        what the worker has taken, does and refused, in the platform's units
reports     tells the platform of it
benchmark   how much the server can do
vast_worker  takes requests in and passes them on

The protocol is that of the platform's published SDK (vast-ai/vast-sdk, `vastai/serverless/server`).
"""

from __future__ import annotations
