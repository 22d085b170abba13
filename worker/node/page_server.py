"""Serves a node's pages over HTTP: its metrics, and ``/health``."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

Page = Callable[[dict[str, Any], Any], Iterable[bytes]]
"""A WSGI application."""


class PageServer:
    """From `start` to `stop`, on a thread of its own; each request has one, too."""

    def __init__(
        self, address: str, port: int, *, metrics: Page, health: Callable[[], str]
    ) -> None:
        """``health``: what is wrong, or ''. Raises OSError: it cannot have the port."""

        def page(environ: dict[str, Any], start: Any) -> Iterable[bytes]:
            if environ.get("PATH_INFO") == "/health":
                return _health(health(), start)
            return metrics(environ, start)

        family, *_, place = socket.getaddrinfo(
            address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        server = type("_Of", (_Server,), {"address_family": family})
        self._server: WSGIServer = server(place[:2], _Quiet)
        self._server.set_app(page)
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="pages", daemon=True
        )

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Call it once, after `start`."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _health(wrong: str, start: Any) -> Iterable[bytes]:
    start("503 Service Unavailable" if wrong else "200 OK", [("Content-Type", "text/plain")])
    return [f"{wrong or 'well'}\n".encode()]


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    """Logs nothing."""

    def log_message(self, *_: object) -> None:
        pass
