"""A real Chromium without a window, told what to do over its own debugging protocol."""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
import websocket

from tests.ports import free_port
from tests.services import missing
from tests.waiting import PATIENCE, until

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--window-size=1400,900"),
    *("--disable-background-networking", "--disable-component-update", "--no-first-run", "--remote-allow-origins=*"),
)


#: What the browser says of a question to a page that has just made room for another one.
_GONE = -32000


class NavigatedError(Exception):
    """The page went elsewhere while it was asked."""


class Page:
    """One tab."""

    def __init__(self, address: str) -> None:
        self._connection = websocket.create_connection(address, timeout=60 * PATIENCE)
        self._numbers = itertools.count(1)
        #: What came of each request of the page: its address, and the status.
        self.answered: list[tuple[str, int]] = []
        self._tell("Page.enable")
        self._tell("Network.enable")

    def close(self) -> None:
        """Close the tab, and with it the connections that it holds to servers."""
        self._connection.send(json.dumps({"id": next(self._numbers), "method": "Page.close"}))
        self._connection.close()

    def go(self, url: str) -> None:
        self._tell("Page.navigate", url=url)

    def run(self, expression: str) -> Any:
        """Return what a JavaScript expression comes to; a promise is waited for."""
        found = self._tell("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def await_true(self, expression: str, *, timeout_s: float = 60.0) -> None:
        """Wait until an expression is true; one that fails is not."""
        safe = f"(() => {{ try {{ return !!({expression}) }} catch (_) {{ return false }} }})()"
        until(lambda: self._is_true(safe), timeout_s=timeout_s, what=expression)

    def _is_true(self, expression: str) -> bool:
        try:
            return bool(self.run(expression))
        except NavigatedError:
            return False

    def press_key(self, key: str) -> None:
        """Press a key such as `Tab`, as a reader would."""
        codes = {"Tab": 9, "Enter": 13, "Escape": 27, "ArrowRight": 39, "ArrowLeft": 37}
        for kind in ("keyDown", "keyUp"):
            self._tell("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=codes[key])

    def look(self, *, width: int, height: int, is_phone: bool = False, is_dark: bool = False) -> None:
        """Have the page be so large, and its reader prefer dark colours or light ones."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": is_phone}
        self._tell("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        self._tell("Emulation.setEmulatedMedia", features=[scheme])

    def picture(self, path: Path) -> None:
        """Keep what the page looks like, for people."""
        path.write_bytes(base64.b64decode(self._tell("Page.captureScreenshot")["data"]))

    def _tell(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        self._connection.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            said = json.loads(self._connection.recv())
            if said.get("method") == "Network.responseReceived":
                response = said["params"]["response"]
                self.answered.append((response["url"], int(response["status"])))
            if said.get("id") == number:
                if said.get("error", {}).get("code") == _GONE:
                    raise NavigatedError(said["error"]["message"])
                assert "error" not in said, said["error"]
                result: dict[str, Any] = said["result"]
                return result


class Browser:
    """A browser with a profile of its own; nothing of it is left."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"

    def open(self, url: str) -> Page:
        """Open a page in a new tab."""
        made = requests.put(f"{self._url}/json/new?about:blank", timeout=20).json()
        page = Page(made["webSocketDebuggerUrl"])
        page.go(url)
        return page


@contextmanager
def chromium(profile: Path) -> Iterator[Browser]:
    """Run one for the time of the block; skips where there is none."""
    program = next((found for name in _NAMES if (found := shutil.which(name)) is not None), None)
    if program is None:
        missing("no Chromium is installed")
    port = free_port()
    command = [program, *_FLAGS, f"--remote-debugging-port={port}", f"--user-data-dir={profile}", "about:blank"]
    with (profile.parent / f"{profile.name}.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "HOME": str(profile.parent)})
        try:
            until(lambda: _answers(port), what="the browser")
            yield Browser(port)
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)


def _answers(port: int) -> bool:
    try:
        return requests.get(f"http://127.0.0.1:{port}/json/version", timeout=5).ok
    except requests.RequestException:
        return False
