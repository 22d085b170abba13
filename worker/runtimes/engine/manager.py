"""The verbs of a container engine."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from worker.keeper import engine
from worker.keeper.frames import Frames
from worker.runtimes.base import Stream
from worker.runtimes.engine.beside import EngineBeside
from worker.runtimes.engine.client import EngineClient, translated
from worker.runtimes.engine.errors import Conflict, EngineError, EngineMissing, NotFound

_STREAMS = (Stream.STDOUT, Stream.STDERR)
_PIECE = 1 << 16
_QUIET_WITHIN = 30.0


class ContainerStatus(StrEnum):
    """What a container is doing."""

    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    EXITED = "exited"
    MISSING = "missing"


@dataclass(frozen=True, kw_only=True, slots=True)
class Image:
    """An image that the engine has."""

    id: str
    tags: tuple[str, ...]
    digests: tuple[str, ...]
    """``REPOSITORY@sha256:…`` of each registry that it was pulled from or pushed to."""
    labels: Mapping[str, str]
    size: int
    """Bytes."""
    created: float
    """Seconds since the epoch."""
    volumes: tuple[str, ...] = ()
    """Where it declares volumes; a listing does not say."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Availability:
    """Whether the engine can be used now."""

    available: bool
    reason: str = ""
    version: str = ""


class ContainerManager:
    """See the module's docstring. Thread-safe. Every verb raises `EngineError`."""

    def __init__(self, client: EngineClient) -> None:
        self._client = client

    @property
    def client(self) -> EngineClient:
        return self._client

    def available(self) -> Availability:
        """Whether the engine answers, and if not, why and what to do."""
        try:
            version = self._client.version()
            answer = engine.call(str(self._client.socket), "GET", "/_ping", within=5.0)
        except EngineError as error:
            return Availability(available=False, reason=str(error))
        except OSError as error:
            return Availability(
                available=False, reason=f"{self._client.socket} does not answer: {error}"
            )
        if not answer.ok:
            return Availability(available=False, reason=answer.text())
        if self._client.renewed(answer.headers.get("server", "")):
            return self.available()
        return Availability(available=True, version=version.engine)

    def info(self) -> dict[str, Any]:
        with translated("asking the engine about itself"):
            found: dict[str, Any] = self._client.quick.info()
            return found

    def has_toolkit(self) -> bool:
        """Whether the NVIDIA runtime is registered with the engine."""
        return "nvidia" in (self.info().get("Runtimes") or {})

    # --- images

    def image(self, reference: str) -> Image:
        """Raises `NotFound`: the engine does not have it."""
        with translated(f"looking for image {reference}"):
            found = self._client.quick.inspect_image(reference)
        return _image(found)

    def image_exists(self, reference: str) -> bool:
        try:
            self.image(reference)
        except NotFound:
            return False
        return True

    def list_images(self, prefix: str = "") -> list[Image]:
        """The images of which one tag begins with ``prefix``, newest first."""
        with translated("listing images"):
            found = self._client.quick.images()
        images = [_listed(one) for one in found]
        fitting = [one for one in images if any(tag.startswith(prefix) for tag in one.tags)]
        return sorted(fitting, key=lambda one: one.created, reverse=True)

    def remove_image(self, reference: str) -> None:
        """Remove one tag, and the image with its last one. No error if it is not there.

        Raises `Conflict`: a container uses it.
        """
        with contextlib.suppress(NotFound), translated(f"removing image {reference}"):
            self._client.quick.remove_image(reference)

    def network(self, name: str) -> dict[str, Any]:
        """A network, as the API has it. Raises `NotFound`."""
        with translated(f"looking for network {name}"):
            found: dict[str, Any] = self._client.quick.inspect_network(name)
            return found

    # --- containers

    def create(self, name: str, config: Mapping[str, Any]) -> str:
        """Create a container, as the API has it; its id. Nothing is pulled, no proxy injected.

        Raises `Conflict`: the name is taken. `NotFound`: there is no such image.
        """
        with translated(f"creating container {name}"):
            made = self._client.quick.create_container_from_config(dict(config), name)
        found: str = made["Id"]
        return found

    def start(self, container: str) -> None:
        with translated(f"starting container {container:.64}"):
            self._client.patient.start(container)

    def stop(self, container: str, grace: float) -> None:
        """SIGTERM, after ``grace`` seconds SIGKILL; waits for the end. No error if it is gone."""
        with contextlib.suppress(NotFound), translated(f"stopping container {container:.64}"):
            self._client.patient.stop(container, timeout=max(0, round(grace)))

    def kill(self, container: str, number: int = 9) -> None:
        """Signal its main process. No error if it does not run."""
        with (
            contextlib.suppress(NotFound, Conflict),
            translated(f"signalling container {container:.64}"),
        ):
            self._client.quick.kill(container, number)

    def remove(self, container: str) -> None:
        """Kill it if it runs, and delete it with its anonymous volumes. No error if it is gone."""
        with (
            contextlib.suppress(NotFound, Conflict),  # 409: somebody removes it already
            translated(f"removing container {container:.64}"),
        ):
            self._client.quick.remove_container(container, v=True, force=True)

    def inspect(self, container: str) -> dict[str, Any]:
        with translated(f"inspecting container {container:.64}"):
            found: dict[str, Any] = self._client.quick.inspect_container(container)
            return found

    def ended(self, container: str) -> float:
        """When it ended, seconds since the epoch; 0: it runs, never ran, or is gone."""
        try:
            when = str(self.inspect(container)["State"].get("FinishedAt") or "")[:19]
            return datetime.fromisoformat(f"{when}+00:00").timestamp()
        except (NotFound, ValueError, OverflowError):
            return 0.0

    def status(self, container: str) -> ContainerStatus:
        try:
            state = self.inspect(container)["State"]
        except NotFound:
            return ContainerStatus.MISSING
        if state.get("Paused"):
            return ContainerStatus.PAUSED
        if state.get("Running"):
            return ContainerStatus.RUNNING
        return (
            ContainerStatus(state["Status"])
            if state["Status"] == "created"
            else (ContainerStatus.EXITED)
        )

    def containers(self, labels: Mapping[str, str]) -> list[dict[str, Any]]:
        """All containers, running or not, that have these labels: as the API lists them."""
        wanted = [f"{key}={value}" for key, value in labels.items()]
        with translated("listing containers"):
            found: list[dict[str, Any]] = self._client.quick.containers(
                all=True, filters={"label": wanted}
            )
            return found

    def stream(
        self, container: str, *, follow: bool, skip: tuple[int, int] = (0, 0)
    ) -> Iterator[tuple[Stream, bytes]]:
        """The container's output from its start; of each stream the first bytes may be skipped.

        It ends when the container has (its end proves nothing: ask `status`).
        """
        url = f"containers/{container}/logs?stdout=1&stderr=1&follow={int(follow)}"
        patience = None if follow else _QUIET_WITHIN
        yield from self._frames(f"the output of {container:.64}", "GET", url, patience, skip=skip)

    def exec(self, container: str, argv: Sequence[str]) -> EngineBeside:
        """Run a command beside the container's own, as its user. Raises KeeperError."""
        return EngineBeside(self._client, container, argv)

    def _frames(
        self,
        doing: str,
        method: str,
        what: str,
        patience: float | None,
        *,
        skip: tuple[int, int] = (0, 0),
    ) -> Generator[tuple[Stream, bytes], None, None]:
        """What comes of both streams, in an engine's frames; closed, it hangs up."""
        url = f"/v{self._client.version().api}/{what}"
        pieces: list[tuple[Stream, bytes]] = []
        frames = Frames(lambda index, data: pieces.append((_STREAMS[index], data)), skip)
        try:
            connection = engine.connect(str(self._client.socket), _QUIET_WITHIN)
        except OSError as error:
            raise EngineMissing(f"{doing}: {error}") from error
        try:
            connection.settimeout(patience)
            connection.sendall(engine.request(method, url))
            reader = engine.Reader()
            while not reader.complete:
                reader.feed(connection.recv(_PIECE))
                if reader.status not in (0, 101, 200):
                    continue
                frames.feed(bytes(reader.body))
                reader.body.clear()
                yield from pieces
                pieces.clear()
            if reader.status not in (101, 200):
                kind = NotFound if reader.status == 404 else EngineError
                raise kind(f"{doing}: {reader.answer.text()}")
        except (OSError, ValueError) as error:
            raise EngineError(f"{doing}: {error}") from error
        finally:
            connection.close()


def _image(found: Mapping[str, Any]) -> Image:
    created = str(found.get("Created") or "1970-01-01T00:00:00Z")[:19]
    config = found.get("Config") or {}
    return Image(
        id=found["Id"],
        tags=_familiar(found.get("RepoTags")),
        digests=_familiar(found.get("RepoDigests")),
        labels=dict(config.get("Labels") or {}),
        size=int(found.get("Size") or 0),
        created=datetime.fromisoformat(f"{created}+00:00").timestamp(),
        volumes=tuple(config.get("Volumes") or ()),
    )


def _listed(found: Mapping[str, Any]) -> Image:
    return Image(
        id=found["Id"],
        tags=tuple(tag for tag in _familiar(found.get("RepoTags")) if tag != "<none>:<none>"),
        digests=_familiar(found.get("RepoDigests")),
        labels=dict(found.get("Labels") or {}),
        size=int(found.get("Size") or 0),
        created=float(found.get("Created") or 0),
    )


def _familiar(names: Iterable[str] | None) -> tuple[str, ...]:
    """Without Docker's own registry, which Podman writes out and Docker leaves out."""
    return tuple(
        name.removeprefix("docker.io/library/").removeprefix("docker.io/") for name in names or ()
    )
