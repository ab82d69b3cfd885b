"""A page of another site in a real browser: one that is let in does all it needs, any other gets nothing."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from core.ledger import Ledger
from core.ledger.upgrade import migrate
from core.storage.backend import output_storage
from tests.browser import Browser, chromium
from tests.integration.api_fixtures import Worker, gunicorn_api, settings_for
from tests.makers import GRAPH

pytestmark = pytest.mark.slow

KEY = "a-key-that-its-reader-typed"
#: What a page of somebody's own does: a job, its events by a link, and its picture.
FOLLOW = """(async () => {
  const headers = {Authorization: 'Bearer KEY', 'Content-Type': 'application/json'};
  const ask = async (path, body) => {
    const answer = await fetch(API + path, {method: 'POST', headers, body: body && JSON.stringify(body)});
    return {status: answer.status, reference: answer.headers.get('X-Request-Id'), ...await answer.json()};
  };
  const wrong = await ask('/api/v2/jobs', {});
  const job = await ask('/api/v2/jobs', {workflow: GRAPH});
  const link = await ask(`/api/v2/jobs/${job.id}/events-link`);
  const seen = await new Promise((done, failed) => {
    const told = [], source = new EventSource(link.url);
    source.onerror = () => failed(new Error('the stream failed'));
    source.addEventListener('status', (event) => {
      told.push(JSON.parse(event.data).status);
      if (told.at(-1) === 'succeeded') { source.close(); done(told); }
    });
  });
  const ended = await (await fetch(`${API}/api/v2/jobs/${job.id}`, {headers})).json();
  const picture = await (await fetch(ended.outputs[0].url)).text();
  const has_key = link.url.includes('KEY');
  return {wrong: [wrong.status, wrong.error.code, !!wrong.reference], seen, picture, has_key};
})()"""
TRY = """(async () => {
  const tried = {};
  for (const [name, options] of Object.entries({plain: {}, keyed: {headers: {'X-API-Key': 'KEY'}}}))
    tried[name] = await fetch(API + '/api/v2/jobs', options).then(() => 'read', () => 'refused');
  return tried;
})()"""


@contextmanager
def site() -> Iterator[int]:
    """Any web server of somebody else, on another name of this machine; yields its port."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<title>a page</title>")

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    with chromium(tmp_path / "profile") as found:
        yield found


def test_pages(browser: Browser, tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    migrate(settings)
    ledger = Ledger(settings)
    worker = Worker(ledger, settings.outputs_dir, output_storage(settings))
    worker.come_up()
    with site() as ours, site() as theirs:
        origin = f"http://localhost:{ours}"
        with gunicorn_api(settings, COMFYLINE_API_KEYS=KEY, COMFYLINE_CORS_ORIGINS=origin) as url:
            words = {"API": json.dumps(url), "GRAPH": json.dumps(GRAPH), "KEY": KEY}
            page = browser.open(origin)
            page.await_true("document.title === 'a page'")
            runner = threading.Thread(target=worker.run_next, args=(b"a picture",), kwargs={"timeout_s": 60.0})
            runner.start()
            done = page.run(_with(FOLLOW, words))
            runner.join()
            assert done["wrong"] == [422, "invalid_workflow", True]
            assert (done["seen"][-1], done["picture"], done["has_key"]) == ("succeeded", "a picture", False)
            page.close()
            other = browser.open(f"http://localhost:{theirs}")
            other.await_true("document.title === 'a page'")
            assert other.run(_with(TRY, words)) == {"plain": "refused", "keyed": "refused"}
            other.close()
    ledger.close()


def _with(script: str, words: dict[str, str]) -> str:
    for name, value in words.items():
        script = script.replace(name, value)
    return script
