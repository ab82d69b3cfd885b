"""The official editor in a real browser: a graph is queued, its progress and its picture are seen, and found again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.browser import Browser, Page, chromium
from tests.fleet import ALL, Fleet, work
from tests.foreign_clients import editor_path
from tests.ports import free_port
from tests.waiting import PATIENCE, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

KEY = "a-key-for-the-editor"
#: Of the official templates, one whose nodes and models simulated GPUs have.
TEMPLATE = "flux_schnell"
SCOPES = ("--scope", "submit", "--scope", "read", "--scope", "cancel")
#: Types into the search field of the open dialog.
SEARCH = """
(() => {
  const field = document.querySelector('[role=dialog] input[type=text], [role=dialog] input:not([type])');
  field.value = 'WORDS';
  field.dispatchEvent(new Event('input', {bubbles: true}));
  return 1;
})()
"""
LOADED = "window.app && app.extensionManager && app.graph && !document.querySelector('#splash-loader')"
#: What the websocket brings, kept where tests can see it.
LISTEN = """
window.told = [];
for (const kind of ['execution_start', 'progress', 'executed', 'execution_success', 'execution_interrupted'])
  app.api.addEventListener(kind, (event) => told.push([kind, event.detail]));
"""


@dataclass
class Served:
    """A fleet that asks for a key, with the editor."""

    base: str
    browser: Browser
    fleet: Fleet

    def open(self, key: str = KEY) -> Page:
        """Open the editor as somebody who types a key in when the browser asks for it."""
        page = self.browser.open(self.base.replace("//", f"//me:{key}@"))
        page.await_true(LOADED, timeout_s=90)
        page.run(LISTEN)
        return page

    def get(self, path: str, key: str = KEY) -> Any:
        return requests.get(f"{self.base}{path}", headers={"X-API-Key": key}, timeout=10).json()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root, port = tmp_path_factory.mktemp("editor"), free_port()
    with (
        chromium(root / "profile") as browser,
        Fleet(root, simulated_gpus="2", comfyui_port=str(port), api_keys=KEY) as fleet,
    ):
        fleet.key = KEY
        path = editor_path(root, "comfyui_workflow_templates_json")
        fleet.with_variables(PYTHONPATH=path).start(*ALL).ready()
        yield Served(base=f"http://127.0.0.1:{port}/", browser=browser, fleet=fleet)


def queue(page: Page, graph: dict[str, Any]) -> None:
    page.run(f"app.loadApiJson({json.dumps(graph)}, 'flow.json')")
    page.run("app.queuePrompt(0, 1)")


def told(page: Page, kind: str) -> list[Any]:
    return [detail for each, detail in page.run("told") if each == kind]


def test_a_graph_is_queued_seen_and_found_again(served: Served, tmp_path: Path) -> None:
    page = served.open()
    queue(page, work(4.0, seed=5))
    page.await_true("told.some(([kind]) => kind === 'progress')")
    page.await_true("told.some(([kind]) => kind === 'execution_success')")
    page.picture(tmp_path / "editor.png")
    [done] = told(page, "execution_success")
    # The picture stands in its node.
    page.await_true("app.graph.getNodeById(3).imgs?.[0]?.naturalWidth === 64")
    page.go(served.base)
    page.await_true(LOADED, timeout_s=90)
    history = page.run("app.api.getHistory(10).then((found) => JSON.stringify(found))")
    assert done["prompt_id"] in history
    # What was sent with it is the editor's own workflow.
    entry = served.get(f"history/{done['prompt_id']}")[done["prompt_id"]]
    assert len(entry["prompt"][3]["extra_pnginfo"]["workflow"]["nodes"]) == 3
    page.close()


def test_several_run_at_once_and_each_browser_sees_its_own(served: Served) -> None:
    page, other = served.open(), served.open()
    queue(page, work(6.0, seed=21))
    queue(page, work(6.0, seed=22))
    until(lambda: len(served.get("queue")["queue_running"]) == 2, what="both at once")
    page.await_true("told.filter(([kind]) => kind === 'execution_success').length === 2")
    kinds = [kind for kind, _ in page.run("told")]
    assert kinds.index("execution_success") > [n for n, kind in enumerate(kinds) if kind == "execution_start"][1]
    assert other.run("told.length") == 0
    page.close()
    other.close()


def test_what_runs_is_cancelled(served: Served) -> None:
    page = served.open()
    queue(page, work(60.0, steps=600, seed=31))
    page.await_true("told.some(([kind]) => kind === 'progress')")
    [begun] = told(page, "execution_start")
    page.run(f"app.api.interrupt({json.dumps(begun['prompt_id'])})")
    page.await_true("told.some(([kind]) => kind === 'execution_interrupted')")
    assert served.get(f"api/jobs/{begun['prompt_id']}")["status"] == "cancelled"
    page.close()


def test_workflows_and_settings_are_kept(served: Served) -> None:
    page = served.open()
    page.run("app.api.storeUserData('workflows/kept.json', {nodes: []}, {overwrite: true, stringify: true})")
    page.run("app.api.storeSetting('Comfy.Test', 7)")
    assert served.get("userdata?dir=workflows") == ["kept.json"]
    assert served.get("settings/Comfy.Test") == 7
    page.close()


def test_a_template_is_chosen_by_hand(served: Served) -> None:
    page = served.open()
    page.run("app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    card = f"document.querySelector('[data-testid=\"template-workflow-{TEMPLATE}\"]')"
    # The list is shown in parts: what is looked for is typed, as a user does.
    page.await_true("document.querySelector('[data-testid=\"template-workflows-content\"]')")
    page.run(SEARCH.replace("WORDS", "flux schnell"))
    page.await_true(card, timeout_s=90)
    page.run(f"({card}.querySelector('img, button, [role=button]') ?? {card}).click(); {card}?.click(); 1")
    page.await_true("app.graph.nodes.some((node) => node.type === 'KSampler')", timeout_s=90)
    page.close()


def test_the_editors_own_command_cancels(served: Served) -> None:
    page = served.open()
    queue(page, work(100.0, steps=1000, seed=32))
    page.await_true("told.some(([kind]) => kind === 'progress')")
    # As its button and its key have it.
    page.run("app.extensionManager.command.execute('Comfy.Interrupt')")
    page.await_true("told.some(([kind]) => kind === 'execution_interrupted')")
    page.close()


def test_users_with_keys_of_their_own_see_nothing_of_each_other(served: Served, tmp_path: Path) -> None:
    served.fleet.with_variables(COMFY_API_KEY=KEY).command("tenants", "create", "second")
    made = served.fleet.command("keys", "create", "second", "--tenant", "second", *SCOPES)
    assert made.returncode == 0, made.stderr
    [key] = [word for word in made.stdout.split() if word.startswith("comfyline_")]
    # A browser of another user: one browser keeps one password for an address.
    with chromium(tmp_path / "other") as browser:
        other = Served(base=served.base, browser=browser, fleet=served.fleet)
        mine, theirs = served.open(), other.open(key)
        queue(mine, work(3.0, seed=41))
        queue(theirs, work(3.0, seed=42))
        for page in (mine, theirs):
            page.await_true("told.some(([kind]) => kind === 'execution_success')", timeout_s=120)
        [own], [foreign] = told(mine, "execution_success"), told(theirs, "execution_success")
        assert list(served.get("history", key)) == [foreign["prompt_id"]]
        assert foreign["prompt_id"] not in served.get("history")
        assert own["prompt_id"] in served.get("history")
        theirs.close()
        mine.close()


def test_the_editor_comes_back_when_the_server_does(served: Served) -> None:
    page = served.open()
    queue(page, work(25.0 * PATIENCE, steps=200, seed=51))
    page.await_true("told.some(([kind]) => kind === 'progress')")
    served.fleet.kill("api")
    served.fleet.start("api")
    page.await_true("told.some(([kind]) => kind === 'execution_success')", timeout_s=150)
    page.await_true("app.graph.getNodeById(3).imgs?.[0]?.naturalWidth === 64")
    page.close()
