"""Pulls: each image once at a time on a node, whichever of its processes ask.

A pull may take as long as it moves: only silence ends it. Who finds another at it waits, hears how
that one gets on, and takes what it brought.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import os
import select
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from worker.keeper import engine
from worker.runtimes.engine.auth import Credentials
from worker.runtimes.engine.client import EngineClient
from worker.runtimes.engine.errors import EngineError, EngineMissing, ImageUnavailable
from worker.sandbox.references import Reference

_LOOK_EVERY: Final = 0.2
_TELL_EVERY: Final = 0.5
_PIECE: Final = 1 << 16
_MOST_WHY: Final = 2000


class Puller:
    """Pulls through one engine. ``place``: a directory that the node's processes share."""

    def __init__(
        self,
        client: EngineClient,
        place: Path,
        *,
        credentials: Credentials,
        silence: float = 60.0,
    ) -> None:
        """``silence``: seconds without a word from the engine after which a pull has failed."""
        self._client = client
        self._place = place
        self._credentials = credentials
        self._silence = silence

    def pull(self, image: Reference, progress: Callable[[str], None]) -> None:
        """Have the engine fetch ``image``; ``progress`` hears a line now and then.

        Raises:
            ImageUnavailable: the registry does not give it, or nothing moved for too long.
        """
        asked = time.time()
        login = self._credentials.of(image.domain)
        with self._alone(image, login, progress) as file:
            found = _read(file)
            if _time_of(found, "done") >= asked:
                return  # somebody has just brought it, after we asked
            if _time_of(found, "failed") >= asked:
                raise ImageUnavailable(str(found.get("why")))
            try:
                self._fetch(image, login, _Teller(file, progress))
            except ImageUnavailable as error:
                _write(file, {"failed": time.time(), "why": str(error)[:_MOST_WHY]})
                raise
            _write(file, {"done": time.time()})

    def _fetch(self, image: Reference, login: Mapping[str, str], tell: _Teller) -> None:
        """The client waits for ever between two words of the engine: so this is not by it."""
        base = f"/v{self._client.version().api}/images/create"
        query = urlencode({"fromImage": image.repository, "tag": image.version})
        auth = base64.urlsafe_b64encode(json.dumps(dict(login)).encode()).decode()
        try:
            connection = engine.connect(str(self._client.socket), self._silence)
        except OSError as error:
            raise EngineMissing(f"pulling {image}: {error}") from error
        try:
            connection.sendall(engine.request("POST", f"{base}?{query}", auth=auth))
            reader = engine.Reader()
            while not reader.complete:
                tell.wait(connection, self._silence)
                reader.feed(connection.recv(_PIECE))
                if reader.status == 200:
                    _hear(image, reader.body, tell)
            if reader.status != 200:
                raise ImageUnavailable(f"pulling {image}: {reader.answer.text()}")
        except TimeoutError:
            raise ImageUnavailable(
                f"pulling {image}: nothing moved for {self._silence:g} s"
            ) from None
        except (OSError, ValueError) as error:
            raise EngineError(f"pulling {image}: {error}") from error
        finally:
            connection.close()

    @contextmanager
    def _alone(
        self, image: Reference, login: Mapping[str, str], progress: Callable[[str], None]
    ) -> Iterator[int]:
        """The pull's file, locked. Who waits for it tells what is written there."""
        self._place.mkdir(mode=0o700, parents=True, exist_ok=True)
        # who may have it is part of what it is: a stranger does not get what a customer pulled
        key = f"{image.whole}\0{json.dumps(dict(login), sort_keys=True)}"
        name = f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.pull"
        fd = os.open(self._place / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            told = ""
            while True:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    told = str(_read(fd).get("progress") or told)
                    progress(told)  # also where nothing is new: whoever asked may have gone
                    time.sleep(_LOOK_EVERY)
            yield fd
        finally:
            os.close(fd)


def _hear(image: Reference, body: bytearray, tell: _Teller) -> None:
    """Take the whole lines of what the engine has said so far. Errors stand among them."""
    end = body.rfind(b"\n") + 1
    lines = bytes(body[:end]).splitlines()
    del body[:end]
    for line in filter(None, lines):
        answer = json.loads(line)
        error = answer.get("error") or (answer.get("errorDetail") or {}).get("message")
        if error:
            raise ImageUnavailable(f"pulling {image}: {error}")
        tell.heard(answer)


class _Teller:
    """Adds up what the engine says of each layer, and passes it on, not too often."""

    def __init__(self, file: int, progress: Callable[[str], None]) -> None:
        self._file = file
        self._progress = progress
        self._layers: dict[str, tuple[int, int]] = {}
        self._next = 0.0
        self._last = ""

    def wait(self, connection: socket.socket, silence: float) -> None:
        """Until there is something to read; says now and then that nothing is new, so that whoever
        asked can give up. Raises TimeoutError after ``silence`` seconds, and what they raise."""
        until = time.monotonic() + silence
        while not select.select([connection], [], [], min(_TELL_EVERY, silence))[0]:
            if time.monotonic() >= until:
                raise TimeoutError
            self._progress(self._last)

    def heard(self, answer: Mapping[str, Any]) -> None:
        detail = answer.get("progressDetail") or {}
        if answer.get("status") == "Downloading" and detail.get("total"):
            self._layers[str(answer.get("id"))] = (int(detail["current"]), int(detail["total"]))
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _TELL_EVERY
        text = self._last = self._text(answer)
        _write(self._file, {"progress": text})
        self._progress(text)

    def _text(self, answer: Mapping[str, Any]) -> str:
        if not self._layers:
            return str(answer.get("status") or "")[:200]
        have = sum(current for current, _ in self._layers.values())
        whole = sum(total for _, total in self._layers.values())
        return f"{have / 1e6:.1f} of {whole / 1e6:.1f} MB in {len(self._layers)} layers"


def _read(file: int) -> dict[str, Any]:
    try:
        found = json.loads(os.pread(file, 4096, 0) or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _write(file: int, content: Mapping[str, Any]) -> None:
    data = json.dumps(content).encode()
    os.pwrite(file, data, 0)
    os.ftruncate(file, len(data))


def _time_of(found: Mapping[str, Any], what: str) -> float:
    return float(found.get(what) or 0.0)
