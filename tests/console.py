"""What tests and pictures of the console share: a fleet and a browser, and what a reader does with a page."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import requests

from tests.browser import Browser, Page
from tests.fleet import Fleet, work
from tests.waiting import until

KEY = "a-key-for-the-console"
#: What a page has that is not being read any more.
SETTLED = "document.querySelector('main') && !document.querySelector('.spinner')"


@dataclass
class Served:
    """A fleet that asks for a key, and a browser."""

    url: str
    fleet: Fleet
    browser: Browser

    def open(self, key: str = KEY) -> Page:
        """Open the console and sign in."""
        page = self.browser.open(self.url)
        page.await_true("document.querySelector('nav, input[type=password]')")
        page.run("fetch('/api/v2/session', {method: 'DELETE'})")
        page.run("location.reload()")
        page.await_true("document.querySelector('input[type=password]')")
        fill(page, "input[type=password]", key)
        press(page, "Sign in")
        page.await_true("document.querySelector('nav')")
        return page

    def ask(self, method: str, path: str, *, key: str = KEY, **options: Any) -> Any:
        headers = {"X-API-Key": key}
        answer = requests.request(method, self.url + path, headers=headers, timeout=30, **options)
        assert answer.ok, answer.text
        return answer.json() if answer.content else None

    def key_of(self, tenant: str) -> str:
        if tenant not in [each["name"] for each in self.ask("GET", "/api/v2/tenants")["tenants"]]:
            self.ask("POST", "/api/v2/tenants", json={"name": tenant})
        body = {"name": "console", "tenant": tenant, "scopes": ["submit", "read", "cancel"]}
        return str(self.ask("POST", "/api/v2/keys", json=body)["secret"])


def fill(page: Page, selector: str, words: str) -> None:
    page.await_true(f"document.querySelector({json.dumps(selector)})")
    page.run(f"""(() => {{
      const field = document.querySelector({json.dumps(selector)});
      const kinds = {{TEXTAREA: HTMLTextAreaElement, SELECT: HTMLSelectElement, INPUT: HTMLInputElement}};
      const kind = kinds[field.tagName];
      Object.getOwnPropertyDescriptor(kind.prototype, 'value').set.call(field, {json.dumps(words)});
      field.dispatchEvent(new Event('input', {{bubbles: true}}));
      field.dispatchEvent(new Event('change', {{bubbles: true}}));
    }})()""")  # fmt: skip


def press(page: Page, words: str) -> None:
    """Press the button that says so; whoever is asked whether to agrees."""
    page.run("window.confirm = () => true")
    button = f"[...document.querySelectorAll('button')].find((each) => each.textContent.trim() === {json.dumps(words)})"
    page.await_true(f"{button} && !{button}.disabled")
    page.run(f"{button}.click()")


def see(page: Page, place: str) -> None:
    page.run(f"location.hash = {json.dumps('#/' + place)}")
    page.await_true(SETTLED)


def shows(page: Page, words: str, *, timeout_s: float = 60.0) -> None:
    page.await_true(f"document.querySelector('main').innerText.includes({json.dumps(words)})", timeout_s=timeout_s)


def made(served: Served, *, key: str = KEY, **body: Any) -> str:
    """A job that has ended, by the API."""
    answer = served.ask("POST", "/api/v2/jobs", key=key, json={"workflow": work(0.1)} | body)
    job_id = str(answer["id"])
    until(lambda: served.ask("GET", f"/api/v2/jobs/{job_id}", key=key)["completed_at"], what="its end")
    return job_id
