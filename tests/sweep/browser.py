"""A headless Chromium, driven by the WebDriver protocol: JSON over HTTP, for which the standard library is enough."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1400,1000",
)
STARTING = 60
"""Seconds that a browser may take to start on a machine that is busy."""


def missing_programs() -> list[str]:
    """The programs that a browser test needs and that are not installed."""
    return [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]


class Browser:
    """One window."""

    def __init__(self, session: str) -> None:
        """Args: session: The address of a WebDriver session."""
        self._session = session

    def open(self, path: Path) -> None:
        """Load a local page."""
        _send(f"{self._session}/url", {"url": path.as_uri()})

    def run(self, script: str, *arguments: Any) -> Any:
        """What a script returns: `browser.run("return document.title")`."""
        return _send(f"{self._session}/execute/sync", {"script": script, "args": list(arguments)})

    def click(self, selector: str) -> None:
        """Click on the middle of an element, as a person would; it is scrolled into view first."""
        _send(f"{self._session}/element/{self._find(selector)}/click", {})

    def point_at(self, x: float, y: float) -> None:
        """Move the pointer to a place in the window."""
        move = {"type": "pointerMove", "duration": 0, "x": round(x), "y": round(y), "origin": "viewport"}
        pointer = {"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}, "actions": [move]}
        _send(f"{self._session}/actions", {"actions": [pointer]})

    def complaints(self) -> list[str]:
        """What the console of the page was told since the last call: errors, warnings, refused requests."""
        return [entry["message"] for entry in _send(f"{self._session}/se/log", {"type": "browser"})]

    def screenshot(self) -> bytes:
        """The window as a PNG."""
        return base64.b64decode(_send(f"{self._session}/screenshot"))

    def _find(self, selector: str) -> str:
        found = _send(f"{self._session}/element", {"using": "css selector", "value": selector})
        return str(next(iter(found.values())))


@contextmanager
def open_browser(folder: Path) -> Iterator[Browser]:
    """A browser with an empty profile in the folder; closed at the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    driver = subprocess.Popen(["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    session = ""
    try:
        wait_until(lambda: _is_ready(address), STARTING)
        options = {"args": [*FLAGS, f"--user-data-dir={folder}"], "binary": shutil.which("chromium")}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        session = _send(f"{address}/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
        yield Browser(f"{address}/session/{session}")
    finally:
        if session:
            _send(f"{address}/session/{session}", method="DELETE")
        driver.terminate()
        driver.wait(timeout=30)


def wait_until(is_true: Callable[[], bool], seconds: float) -> None:
    """Come back once it is true.

    Raises:
        TimeoutError: If it has not become so.
    """
    end = time.monotonic() + seconds
    while not is_true():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds} seconds")
        time.sleep(0.05)


def _is_ready(address: str) -> bool:
    try:
        return bool(_send(f"{address}/status")["ready"])
    except OSError:
        return False


def _send(address: str, content: Any = None, *, method: str = "") -> Any:
    data = None if content is None else json.dumps(content).encode()
    request = urllib.request.Request(address, data=data, method=method or ("GET" if data is None else "POST"))
    request.add_header("Content-Type", "application/json")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy of the user's leads elsewhere
    try:
        with opener.open(request, timeout=120) as response:
            return json.loads(response.read())["value"]
    except urllib.error.HTTPError as error:
        raise RuntimeError(f"{address}: {error.read().decode(errors='replace')[:500]}") from error
