"""A real HTTP server whose answers a test can hold back, count and change."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


@dataclass
class Page:
    """What is served under one path."""

    content: bytes = b""
    etag: str = ""
    redirect: str = ""
    announced: int | None = None
    """Content-Length, where it is not the truth; -1: none is sent."""
    hold_after: int | None = None
    """Bytes after which it waits for `go`; -1: before it answers at all."""
    go: threading.Event = field(default_factory=threading.Event)
    held: threading.Event = field(default_factory=threading.Event)
    """Set while it waits."""


class Server:
    """Serves `pages` on a port of 127.0.0.1; a context."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.pages: dict[str, Page] = {}
        self.asked: Counter[str] = Counter()
        """GET and HEAD requests, as ``GET /path``."""
        self._server = ThreadingHTTPServer((host, 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for page in self.pages.values():
            page.go.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self._begin()

            def do_GET(self) -> None:
                page = self._begin()
                if page is None or page.redirect:
                    return
                content = page.content
                hold_after = None if page.hold_after == -1 else page.hold_after
                self.wfile.write(content[:hold_after])
                if hold_after is not None:
                    self.wfile.flush()
                    page.held.set()
                    page.go.wait(60)
                    with contextlib.suppress(ConnectionError):  # whoever asked may be dead
                        self.wfile.write(content[hold_after:])

            def _begin(self) -> Page | None:
                outer.asked[f"{self.command} {self.path}"] += 1
                page = outer.pages.get(self.path.partition("?")[0])
                if page is not None and page.hold_after == -1:
                    page.held.set()
                    page.go.wait(60)
                if page is None:
                    self.send_error(404)
                    return None
                if page.redirect:
                    self.send_response(302)
                    self.send_header("Location", page.redirect)
                    self.send_header("Content-Length", "0")
                else:
                    self.send_response(200)
                    size = len(page.content) if page.announced is None else page.announced
                    if size >= 0:
                        self.send_header("Content-Length", str(size))
                    if page.etag:
                        self.send_header("ETag", page.etag)
                self.end_headers()
                return page

            def log_message(self, *args: Any) -> None:
                """Says nothing."""

        return Handler
