"""Connections to one container engine, and its errors as ours."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker.keeper import engine
from worker.runtimes.engine.dialect import Dialect, api_version
from worker.runtimes.engine.errors import Conflict, EngineError, EngineMissing, NotFound

_CALL_WITHIN = 60.0
_HELLO_WITHIN = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Version:
    """What an engine says of itself."""

    engine: str
    """Its version."""
    api: str
    """The API version that is spoken with it."""
    server: str
    """What it calls itself in its answers: another text is another engine, or version."""
    components: dict[str, str]
    """What else it is made of, such as runc, with versions, as far as it told."""


class EngineClient:
    """Two clients of one engine: one for calls, which end soon, one for whatever may take long.

    Each process and thread may use it: the connections of a parent are never a child's.
    """

    def __init__(self, socket: Path, dialect: Dialect) -> None:
        """Nothing is connected yet. ``socket``: the engine's, an absolute path."""
        self.socket = socket
        self.dialect = dialect
        self._lock = threading.Lock()
        self._owner = 0
        self._version: Version | None = None
        self._quick: Any = None
        self._patient: Any = None

    def version(self) -> Version:
        """Which engine this is; asked once.

        Raises:
            EngineMissing: none answers, another program does, or its API is of another time.
        """
        if self._version is None:
            self._version = self._ask()
        return self._version

    def renewed(self, server: str) -> bool:
        """Whether another engine, or version, answers by now: ``server`` is what it calls itself.
        Then it is got to know anew."""
        if self._version is None or not server or server == self._version.server:
            return False
        self.close()
        return True

    @property
    def quick(self) -> Any:
        """docker-py's low-level client for calls that end soon."""
        self._ensure()
        return self._quick

    @property
    def patient(self) -> Any:
        """… for calls that may be silent as long as they like."""
        self._ensure()
        return self._patient

    def own(
        self, doing: str, method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """A call of the engine's own API, which docker-py has no word for.

        Raises EngineError; as `translated` says.
        """
        import docker.errors
        import requests.exceptions

        with translated(doing):
            client = self.quick
            url = f"http+docker://localhost{path}"
            answer = client.request(method, url, json=body, timeout=_CALL_WITHIN)
            try:
                answer.raise_for_status()
            except requests.exceptions.HTTPError as error:
                docker.errors.create_api_error_from_http_exception(error)
            found = answer.json()
        if not isinstance(found, dict):
            raise EngineError(f"{doing}: the answer is of another form")
        return found

    def close(self) -> None:
        """Let go of all connections; a later call makes new ones."""
        with self._lock:
            if self._owner == os.getpid():
                self._quick.close()
                self._patient.close()
            self._owner = 0
            self._version = None

    def _ensure(self) -> None:
        with self._lock:
            if self._owner != os.getpid():
                self._quick = self._connect(_CALL_WITHIN)
                self._patient = self._connect(None)
                self._owner = os.getpid()

    def _connect(self, timeout: float | None) -> Any:
        import docker

        client = docker.APIClient(
            base_url=f"unix://{self.socket}", version=self.version().api, timeout=timeout
        )
        client.trust_env = False  # a proxy of the host's is not between us and a Unix socket
        return client

    def _ask(self) -> Version:
        dialect = self.dialect
        where = "/_ping" if dialect.tells_by_ping else "/version"
        try:
            answer = engine.call(str(self.socket), "GET", where, within=_HELLO_WITHIN)
        except OSError as error:
            raise EngineMissing(self._unreachable(error)) from error
        server = answer.headers.get("server", "")
        if dialect.tells_by_ping:
            name, _, rest = server.partition("/")
            version, oldest = rest.split(" ")[0], dialect.oldest_api
            newest = answer.headers.get("api-version", dialect.api)
            parts = {dialect.component: version} if name == dialect.server else {name: version}
        else:
            parts, version, oldest, newest = _said(answer, self.socket)
        if dialect.component not in parts:
            names = ", ".join(filter(None, parts)) or "nothing"
            raise EngineMissing(
                f"what listens at {self.socket} is not {dialect.name}: it calls itself {names}"
            )
        api = api_version(dialect, oldest, newest)
        if api is None:
            raise EngineMissing(
                f"{dialect.name} {version} at {self.socket} speaks API {oldest} "
                f"to {newest}, and {dialect.api} to {dialect.newest_api} are known here"
            )
        return Version(engine=version, api=api, server=server, components=parts)

    def _unreachable(self, error: OSError) -> str:
        match error:
            case FileNotFoundError():
                why = "there is no such socket: is the engine installed and running?"
            case PermissionError():
                why = (
                    f"user {os.geteuid()} may not use it: add the node's user to the socket's "
                    "group (for Docker's: usermod -aG docker USER, and log in anew)"
                )
            case ConnectionResetError() | BrokenPipeError():
                why = "what listens there is no container engine"
            case ConnectionRefusedError():
                why = "nobody listens there: the engine is not running"
            case _:
                why = str(error)
        return f"{self.dialect.name} at {self.socket}: {why}"


def _said(answer: engine.Answer, socket: Path) -> tuple[dict[str, str], str, str, str]:
    """Components, version, oldest and newest API of an answer to ``/version``."""
    try:
        said = json.loads(answer.body) if answer.ok else None
    except ValueError:
        said = None
    if not isinstance(said, dict) or "ApiVersion" not in said:
        raise EngineMissing(f"what listens at {socket} is no container engine")
    found = said.get("Components") or []
    parts = {one["Name"]: one["Version"] for one in found if "Name" in one}
    return parts, str(said.get("Version")), said.get("MinAPIVersion", "1.12"), said["ApiVersion"]


@contextlib.contextmanager
def translated(doing: str) -> Iterator[None]:
    """docker-py's errors as ours. ``doing``: what is being done, for the message."""
    import docker.errors
    import requests.exceptions

    try:
        yield
    except docker.errors.APIError as error:
        text = f"{doing}: {error.explanation or error}"
        match error.status_code:
            case 404:
                raise NotFound(text) from error
            case 409:
                raise Conflict(text) from error
            case _:
                raise EngineError(text) from error
    except requests.exceptions.ConnectionError as error:
        raise EngineMissing(f"{doing}: the engine cannot be reached: {error}") from error
    except (requests.exceptions.RequestException, docker.errors.DockerException) as error:
        raise EngineError(f"{doing}: {error}") from error
