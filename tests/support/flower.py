"""A Flower with the project's configuration."""

from __future__ import annotations

import base64
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from tests.support.redis_server import free_port

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "compose" / "flowerconfig.py"
LOGIN = "ops:secret"
AUTHORIZATION = "Basic " + base64.b64encode(LOGIN.encode()).decode()


class Flower:
    """A running one."""

    def __init__(self, env: Mapping[str, str], directory: Path, *, login: str = LOGIN) -> None:
        self.url = f"http://127.0.0.1:{(port := free_port())}"
        self._log = directory / f"flower-{port}.log"
        command = [sys.executable, "-m", "celery", "-A", "tasks", "flower"]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, f"--port={port}", f"--conf={CONFIG}"],
                env={**env, "FLOWER_BASIC_AUTH": login},
                cwd=ROOT,
                stdout=log,
                stderr=log,
            )

    @property
    def said(self) -> str:
        return self._log.read_text()

    def ask(self, path: str, *, data: bytes | None = None, login: bool = True) -> tuple[int, str]:
        """Status and text of an answer."""
        request = urllib.request.Request(self.url + path, data=data)
        if login:
            request.add_header("Authorization", AUTHORIZATION)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:  # loopback
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def answers(self) -> bool:
        """Whether it is up."""
        assert self.process.poll() is None, self.said
        try:
            return self.ask("/healthcheck", login=False)[0] == 200
        except OSError:
            return False

    def shows(self, path: str, text: str) -> bool:
        return text in self.ask(path)[1]

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(20)
