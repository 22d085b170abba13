"""Something between a node and a real engine, that lies where a test wants it to.

All else passes through byte by byte: streams, attachments, whatever the engine says.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import shutil
import socket
import struct
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from tests.support.nodes import gone

_HEAD_ENDS = b"\r\n\r\n"
_PIECE = 1 << 16
_CREDENTIALS = struct.Struct("3i")


@dataclass(frozen=True)
class Request:
    """What a client asks for."""

    method: str
    path: str
    body: bytes
    pid: int
    """Of the process that asks."""

    def with_json(self, change: Callable[[Any], None]) -> Request:
        """The same with its body changed in place by ``change``."""
        content = json.loads(self.body)
        change(content)
        return replace(self, body=json.dumps(content).encode())


@dataclass(frozen=True)
class Answer:
    """What a client is told."""

    status: int
    body: bytes
    server: str = ""
    """What the engine calls itself."""
    api: str = ""

    def with_json(self, change: Callable[[Any], None]) -> Answer:
        content = json.loads(self.body)
        change(content)
        return replace(self, body=json.dumps(content).encode())


Rule = Callable[[Request, Callable[[Request], Answer]], Answer]
"""Answers a request, by asking the engine or by itself."""


class Held:
    """One request that waits on its way, or its answer."""

    def __init__(self) -> None:
        self.pid = 0
        """Of the process that asked."""
        self._come, self._go = threading.Event(), threading.Event()

    def wait(self, timeout: float = 30.0) -> None:
        """Until it is there."""
        assert self._come.wait(timeout), f"waited {timeout} s for a request that is to be held"

    def go(self) -> None:
        """Hold it no longer."""
        self._go.set()

    def hold(self, request: Request) -> bool:
        """False: one was held before."""
        if self._come.is_set():
            return False
        self.pid = request.pid
        self._come.set()
        self._go.wait()
        return True


class EngineProxy:
    """Listens at `socket` for the engine at ``real``. A context manager."""

    def __init__(self, real: Path) -> None:
        self._real = real
        self._place = Path(tempfile.mkdtemp(prefix="cyx-proxy-"))
        self.socket = self._place / "s"
        self._rules: list[tuple[re.Pattern[str], Rule]] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._open: set[socket.socket] = set()
        self._over = threading.Event()

    def rule(self, pattern: str, rule: Rule) -> None:
        """From now on, of requests whose method and path have ``pattern``; the latest comes
        first."""
        self._rules.insert(0, (re.compile(pattern), rule))

    def changes(self, pattern: str, change: Callable[[Any], None]) -> None:
        """Answers to such requests are JSON that is changed on its way."""
        self.rule(pattern, lambda request, ask: ask(request).with_json(change))

    def hangs(self, pattern: str) -> None:
        """No such request is answered, nor reaches the engine, until all is honest again: then it
        is told no."""
        over = self._over

        def never(request: Request, ask: Callable[[Request], Answer]) -> Answer:
            over.wait()
            return Answer(500, b'{"message": "it hung"}')

        self.rule(pattern, never)

    def holds(self, pattern: str, *, answered: bool) -> Held:
        """The first such request waits until it may go. ``answered``: the engine has heard of it,
        and it is the answer that waits; else it reaches the engine only where whoever asked lives
        by then."""
        held = Held()

        def rule(request: Request, ask: Callable[[Request], Answer]) -> Answer:
            if answered:
                answer = ask(request)
                held.hold(request)
                return answer
            if held.hold(request) and gone(request.pid):
                return Answer(500, b'{"message": "whoever asked is dead"}')
            return ask(request)

        self.rule(pattern, rule)
        return held

    def honest(self) -> None:
        """Nothing is changed any more."""
        self._rules.clear()
        self._over.set()
        self._over = threading.Event()

    def __enter__(self) -> Self:
        self._listener.bind(str(self.socket))
        self._listener.listen(64)
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.honest()
        self._listener.close()
        for one in list(self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        shutil.rmtree(self._place)

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._one, args=(client,), daemon=True).start()

    def _one(self, client: socket.socket) -> None:
        """One request: each connection has one, as both ends are told."""
        with contextlib.suppress(OSError, ValueError, http.client.HTTPException), client:
            self._open.add(client)
            try:
                self._answer(client)
            finally:
                self._open.discard(client)

    def _answer(self, client: socket.socket) -> None:
        data = b""
        while _HEAD_ENDS not in data:
            piece = client.recv(_PIECE)
            if not piece:
                return
            data += piece
        head, _, body = data.partition(_HEAD_ENDS)
        first, *headers = head.decode("latin-1").split("\r\n")
        method, path, _ = first.split(" ")
        rule = next((rule for found, rule in self._rules if found.search(f"{method} {path}")), None)
        if rule is None:
            self._through(client, first, headers, body)
            return
        length = next((int(h[15:]) for h in headers if h.lower().startswith("content-length:")), 0)
        while len(body) < length:
            body += client.recv(_PIECE)
        credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid = _CREDENTIALS.unpack(credentials)[0]
        answer = rule(Request(method, path, body, pid), self._ask)
        client.sendall(
            f"HTTP/1.1 {answer.status} X\r\nServer: {answer.server}\r\n"
            f"Api-Version: {answer.api}\r\n"
            "Content-Type: application/json\r\nConnection: close\r\n"
            f"Content-Length: {len(answer.body)}\r\n\r\n".encode()
            + answer.body
        )

    def _ask(self, request: Request) -> Answer:
        with socket.socket(socket.AF_UNIX) as engine:
            engine.connect(str(self._real))
            engine.sendall(
                f"{request.method} {request.path} HTTP/1.1\r\nHost: engine\r\nConnection: close\r\n"
                "Content-Type: application/json\r\n"
                f"Content-Length: {len(request.body)}\r\n\r\n".encode()
                + request.body
            )
            answer = http.client.HTTPResponse(engine, method=request.method)
            answer.begin()
            server, api = answer.getheader("Server", ""), answer.getheader("Api-Version", "")
            return Answer(answer.status, answer.read(), server, api)

    def _through(self, client: socket.socket, first: str, headers: list[str], body: bytes) -> None:
        upgrade = any(one.lower().startswith("upgrade:") for one in headers)
        if not upgrade:
            kept = [one for one in headers if not one.lower().startswith("connection:")]
            headers = [*kept, "Connection: close"]
        with socket.socket(socket.AF_UNIX) as engine:
            engine.connect(str(self._real))
            engine.sendall("\r\n".join([first, *headers]).encode("latin-1") + _HEAD_ENDS + body)
            self._open.add(engine)
            try:
                threading.Thread(target=_copy, args=(client, engine), daemon=True).start()
                _copy(engine, client)
            finally:
                self._open.discard(engine)


def _copy(source: socket.socket, to: socket.socket) -> None:
    """Until it ends; then so does what is written to."""
    with contextlib.suppress(OSError):
        while piece := source.recv(_PIECE):
            to.sendall(piece)
    with contextlib.suppress(OSError):
        to.shutdown(socket.SHUT_WR)
