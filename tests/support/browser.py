"""A headless Chromium, driven over its own protocol (CDP)."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import signal
import subprocess
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from tornado.websocket import websocket_connect

from tests.support.waiting import wait_until
from worker.node.tied import tied_command

MISSING = "chromium is not on PATH (Debian: apt-get install chromium)"
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--window-size=1400,900", "--remote-debugging-port=0",
)  # fmt: skip


def chromium() -> str | None:
    """Where it is; None if it is not installed."""
    return shutil.which("chromium")


class Browser:
    """One page of one Chromium. A context manager."""

    def __init__(self, directory: Path) -> None:
        """``directory``: for its profile, new and its own."""
        binary = chromium()
        assert binary, MISSING
        self._loop = asyncio.new_event_loop()
        self._number = 0
        profile = directory / "chromium"
        self.process = subprocess.Popen(
            tied_command(
                [binary, *_FLAGS, f"--user-data-dir={profile}", "about:blank"], signal.SIGKILL
            ),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": str(directory)},
            start_new_session=True,
        )
        port_file = profile / "DevToolsActivePort"
        wait_until(
            lambda: port_file.exists() and port_file.read_text(), timeout=60, what="chromium"
        )
        port = port_file.read_text().splitlines()[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=20) as answer:
            pages = [one for one in json.load(answer) if one["type"] == "page"]
        self._socket = self._loop.run_until_complete(_connect(pages[0]["webSocketDebuggerUrl"]))
        self.call("Network.enable")
        self.call("Page.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """A command of the protocol, answered within 30 s."""
        self._number += 1
        return self._loop.run_until_complete(
            asyncio.wait_for(self._call(self._number, method, params), 30)
        )

    async def _call(self, number: int, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        await self._socket.write_message(
            json.dumps({"id": number, "method": method, "params": params})
        )
        while True:
            said = json.loads(await self._socket.read_message())
            if said.get("id") == number:
                assert "error" not in said, said
                found: dict[str, Any] = said["result"]
                return found

    def send_headers(self, headers: Mapping[str, str]) -> None:
        """With each request from now on."""
        self.call("Network.setExtraHTTPHeaders", headers=dict(headers))

    def go(self, url: str) -> None:
        """Load a page; see `wait_text` for what comes then."""
        self.call("Page.navigate", url=url)

    def run(self, script: str) -> Any:
        """The value of an expression on the page."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        return answer["result"].get("value")

    def text(self) -> str:
        """What can be read on the page."""
        return str(self.run("document.body ? document.body.innerText : ''") or "")

    def wait_text(self, *wanted: str, timeout: float = 30) -> None:
        wait_until(
            lambda: all(one in self.text() for one in wanted), timeout=timeout, what=f"{wanted}"
        )

    def screenshot(self, path: Path) -> bytes:
        """As PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))
        return path.read_bytes()

    def close(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._loop.close()


async def _connect(url: str) -> Any:
    return await websocket_connect(url, max_message_size=1 << 28)
