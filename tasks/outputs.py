"""What a job left, for its producer: listed, and fetched with its hash compared.

(The module is not called `artifacts`, or it would hide the function in the package.)
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

from tasks.errors import CyxWizError
from tasks.state import JobState

if TYPE_CHECKING:
    from tasks.publishing import JobCelery
    from tasks.recorded import JobRecord

_BLOCK: Final = 1 << 20


class NoArtifacts(CyxWizError):
    """The job has none (yet): only one that succeeded has."""


class ArtifactUnavailable(CyxWizError):
    """It cannot be fetched, or what came is not what the node kept."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Artifact:
    """One file that a job left."""

    name: str
    """Its path in the job's output, with '/'."""
    size: int
    """Bytes."""
    sha256: str
    uri: str
    """Where it is kept."""
    node: str
    """The node that ran the job; a ``file:`` URI is one of its paths."""

    def fetch(
        self, directory: str | os.PathLike[str], *, options: Mapping[str, Any] | None = None
    ) -> Path:
        """Bring it to ``directory``, under its name; returns the path.

        What is there under that name is replaced, once the whole file has come and is what the
        node kept. ``options``: what fsspec is told, such as an ``endpoint_url``.

        Raises ArtifactUnavailable: it is not there, is another file, or has a name that would lead
        out of ``directory``.
        """
        path = _place(Path(directory), self.name)
        partial = path.with_name(f".{uuid.uuid4().hex}.partial")
        try:
            with ExitStack() as stack:
                source = self._opened(stack, dict(options or {}))
                self._copy(source, stack.enter_context(partial.open("xb")))
            partial.replace(path)
        except CyxWizError:
            raise
        except Exception as error:  # each file system has errors of its own
            raise ArtifactUnavailable(f"{self.name}: {self._shown}: {error}") from error
        finally:
            partial.unlink(missing_ok=True)
        return path

    @property
    def _shown(self) -> str:
        return self.uri.partition("?")[0]

    def _opened(self, stack: ExitStack, options: Mapping[str, Any]) -> IO[bytes]:
        scheme = self.uri.partition("://")[0]
        if scheme == "file":
            path = Path(unquote(urlsplit(self.uri).path))
            if not path.is_file():
                raise ArtifactUnavailable(
                    f"{self.name}: is on node {self.node} at {path}, which is not this host; "
                    "with storage.artifacts set to a URL that node and producers reach, jobs "
                    "leave their files there"
                )
            return stack.enter_context(path.open("rb"))
        if "://" not in self.uri or "::" in self.uri:
            raise ArtifactUnavailable(f"{self.name}: {self._shown!r} is no URL")
        try:
            import fsspec
        except ImportError:
            raise ArtifactUnavailable(
                f"{self.name}: {self._shown} is fetched with fsspec, which is not installed: "
                "install cyxwiz-worker[fetch]"
            ) from None
        file: IO[bytes] = stack.enter_context(fsspec.open(self.uri, "rb", **options))
        return file

    def _copy(self, source: IO[bytes], target: IO[bytes]) -> None:
        digest, left = hashlib.sha256(), self.size
        while block := source.read(min(_BLOCK, left + 1)):  # one more shows that there is more
            left -= len(block)
            if left < 0:
                break
            digest.update(block)
            target.write(block)
        if left != 0 or digest.hexdigest() != self.sha256:
            raise ArtifactUnavailable(
                f"{self.name}: what is at {self._shown} is not what the node kept: "
                f"{self.size} bytes with SHA-256 {self.sha256}"
            )


def artifacts(job_id: str, *, app: JobCelery | None = None) -> list[Artifact]:
    """The files that the job left.

    Raises UnknownJob, RedisUnavailable, NoArtifacts.
    """
    from tasks.publishing import reachable

    if app is None:
        from tasks.celery import app
    assert app is not None  # noqa: S101 - for the type checker
    with reachable(app.hub):
        record = app.records.get(job_id)
    return of_record(record)


def of_record(record: JobRecord) -> list[Artifact]:
    """The files that the job of this record left. Raises NoArtifacts. Needs no Celery."""
    if record.state is not JobState.SUCCEEDED:
        raise NoArtifacts(
            f"job {record.job_id} is {record.state}: only one that succeeded has artefacts"
        )
    return [
        Artifact(
            name=str(one["name"]),
            size=int(one["size"]),
            sha256=str(one["sha256"]),
            uri=str(one.get("uri") or ""),
            node=str(record.result.get("node") or ""),
        )
        for one in record.result.get("artifacts") or ()
    ]


def _place(directory: Path, name: str) -> Path:
    """Where ``name`` goes beneath ``directory``; folders are made. Raises ArtifactUnavailable."""
    parts = PurePosixPath(name).parts
    forbidden = '\\<>:"|?*' if os.name == "nt" else "\\"
    if (
        not parts
        or name.startswith("/")
        or ".." in parts
        or not name.isprintable()
        or set(name) & set(forbidden)
    ):
        raise ArtifactUnavailable(f"{name!r} is no name that a file may have here")
    directory.mkdir(parents=True, exist_ok=True)
    here = directory
    for part in parts[:-1]:
        here = here / part
        here.mkdir(exist_ok=True)
        if here.is_symlink():
            raise ArtifactUnavailable(f"{name}: {here} is a link, which may lead elsewhere")
    path = here / parts[-1]
    if path.is_dir() and not path.is_symlink():
        raise ArtifactUnavailable(f"{name}: {path} is a directory")
    return path
