"""All tools by name: which a key may call, and which there are."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable
from typing import Any

import mcp_types
from mcp_types.jsonrpc import INVALID_PARAMS

from api.contracts.mcp.json_rpc import ProtocolError
from api.contracts.mcp.looking import LookingTools
from api.contracts.mcp.showing import ShowingTools
from api.contracts.mcp.submitting import SubmittingTools
from api.contracts.mcp.tool import Tool
from api.contracts.mcp.waits import WaitingTools
from api.http.errors import MissingScope
from api.service.batch_results.sheets import Sheets
from api.service.batches.service import BatchService
from api.service.estimates import Estimates
from api.service.input_files import Intake
from api.service.jobs import JobService
from api.service.waiting import Hub
from core.ledger import Ledger
from core.settings import Settings
from workflows.templates.library import Library


class Toolbox:
    """The tools of one process."""

    def __init__(self, tools: Iterable[Tool[Any]]) -> None:
        self._tools = {tool.name: tool for tool in tools}

    def listed(self, scopes: Collection[str]) -> list[mcp_types.Tool]:
        """Return those that a key with these scopes may call, as they are listed."""
        return [tool.listed for tool in self._tools.values() if tool.scope in scopes]

    def find(self, name: str, scopes: Collection[str]) -> Tool[Any]:
        """Return the tool of a name.

        Raises:
          ProtocolError: there is none; the nearest are named.
          MissingScope: the key is not good for it.
        """
        tool = self._tools.get(name)
        if tool is None:
            near = difflib.get_close_matches(name[:100], self._tools, n=3, cutoff=0.5) or sorted(self._tools)
            raise ProtocolError(INVALID_PARAMS, f"There is no tool {name[:60]!a}; there are: {', '.join(near)}.")
        if tool.scope not in scopes:
            raise MissingScope(
                f"This key does not have the scope {tool.scope}, which {name} needs: ask the operator for one that has."
            )
        return tool


def toolbox(
    settings: Settings,
    ledger: Ledger,
    service: JobService,
    batches: BatchService,
    library: Library,
    intake: Intake,
    hub: Hub,
    estimates: Estimates,
    sheets: Sheets,
) -> Toolbox:
    """Return all tools, over the services that every contract shares."""
    return Toolbox(
        [
            *SubmittingTools(settings, ledger, service, batches, library, intake).tools(),
            *WaitingTools(settings, ledger, hub, estimates).tools(),
            *ShowingTools(settings, ledger, sheets).tools(),
            *LookingTools(settings, ledger, service, batches, estimates).tools(),
        ]
    )
