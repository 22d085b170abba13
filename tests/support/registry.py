"""A real image registry on the loopback, with logins, and a door before it that can misbehave."""

from __future__ import annotations

import base64
import http.client
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

import pytest

from tests.support.redis_server import free_port
from tests.support.waiting import wait_until

USER, PASSWORD = "worker", "secret"
_HASH = "$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a"
"""bcrypt of PASSWORD, as htpasswd writes it."""
MISSING = "docker-registry is not on PATH (Debian: apt-get install docker-registry)"

_CONFIG = """
version: 0.1
log: {{level: error}}
storage: {{filesystem: {{rootdirectory: {place}/data}}, delete: {{enabled: true}}}}
http: {{addr: "127.0.0.1:{port}"}}
auth: {{htpasswd: {{realm: test, path: {place}/htpasswd}}}}
"""


def require() -> None:
    """Fail under CI where there is no registry, else skip."""
    if shutil.which("docker-registry") is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(MISSING)


class Registry:
    """One docker-registry. A context manager."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        place = self._place
        place.mkdir(parents=True, exist_ok=True)
        (place / "htpasswd").write_text(f"{USER}:{_HASH}\n")
        (place / "config.yml").write_text(_CONFIG.format(place=place, port=self.port))
        with (place / "log").open("wb") as log:
            self._process = subprocess.Popen(
                ["docker-registry", "serve", str(place / "config.yml")], stdout=log, stderr=log
            )
        wait_until(self._answers, timeout=20, what="docker-registry")
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(timeout=20)

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection(self.host, timeout=2)
        try:
            connection.request("GET", "/v2/")
            return connection.getresponse().status == 401
        except OSError:
            return False
        finally:
            connection.close()


def auth_file(place: Path, *hosts: str, password: str = PASSWORD) -> Path:
    """A file of logins for ``docker.auth_file``."""
    login = base64.b64encode(f"{USER}:{password}".encode()).decode()
    path = place / "auth.json"
    path.write_text(json.dumps({"auths": {host: {"auth": login} for host in hosts}}))
    path.chmod(0o600)
    return path


Pass = Callable[[bytes], None]
Blob = Callable[[bytes, Pass], None]
"""Gets a blob and what sends on: may send less, other, later."""


class Door:
    """An HTTP door before a registry that passes pulls on, and does to blobs what it is told."""

    def __init__(self, registry: Registry) -> None:
        self.blob: Blob = lambda content, send: send(content)
        self.asked: list[str] = []
        """The paths of all requests, as they came."""
        door = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                door.asked.append(self.path)
                connection = http.client.HTTPConnection(registry.host, timeout=60)
                headers = {
                    name: value for name, value in self.headers.items() if name.lower() != "host"
                }
                connection.request(self.command, self.path, headers=headers)
                answer = connection.getresponse()
                content = answer.read()
                self.send_response(answer.status)
                length = answer.headers.get("Content-Length") or str(len(content))
                for name, value in answer.headers.items():
                    if name.lower() not in ("content-length", "date", "server"):
                        self.send_header(name, value)
                self.send_header("Content-Length", length)
                self.send_header("Connection", "close")
                self.end_headers()
                self.close_connection = True
                connection.close()
                if self.command == "HEAD":
                    return
                if "/blobs/" in self.path and answer.status == 200 and len(content) > 4096:
                    door.blob(content, self._send)
                else:
                    self.wfile.write(content)

            do_HEAD = do_GET  # noqa: N815 - http.server's name

            def _send(self, data: bytes) -> None:
                try:
                    self.wfile.write(data)
                    self.wfile.flush()
                except OSError:
                    pass  # the engine has hung up

            def log_message(self, *_: object) -> None:
                """Not on the tests' output."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
