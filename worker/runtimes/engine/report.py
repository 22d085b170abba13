"""What was seen of an attempt's sandbox: kept beside its state, and told with its events."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from worker.sandbox.readback import Finding

_NAME: Final = "sandbox.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class SandboxReport:
    """One attempt's."""

    engine: str
    """docker or podman, with its version."""
    container: str
    image: str
    """As it was asked for."""
    image_id: str
    digest: str
    """``REPOSITORY@sha256:…`` of the registry it came from; '' for one that was made here."""
    loosened: tuple[str, ...]
    """Items that the operator has loosened."""
    from_engine: tuple[Finding, ...]
    stood_in: tuple[str, ...]
    """Limits that something else than the engine keeps: see `worker.sandbox.standins`."""
    unenforced: tuple[str, ...]
    """Limits that nothing keeps, as the operator accepts."""
    from_host: tuple[Finding, ...]
    """Empty if it had ended before it could be looked at."""

    def for_record(self) -> dict[str, Any]:
        """What goes into the job's record: short."""
        return {
            "engine": self.engine,
            "image": self.image,
            "image_id": self.image_id,
            "digest": self.digest,
            "loosened": list(self.loosened),
            "stood_in": list(self.stood_in),
            "unenforced": list(self.unenforced),
            "engine_items": len(self.from_engine),
            "seen": {one.item: one.seen.replace("\t", " ") for one in self.from_host},
        }

    def write(self, directory: Path) -> None:
        partial = directory / f".{_NAME}.partial"
        partial.write_text(json.dumps(asdict(self)))
        partial.replace(directory / _NAME)


def read(directory: Path) -> SandboxReport | None:
    """None: there is none, or it was being written."""
    try:
        content = json.loads((directory / _NAME).read_bytes())
        return SandboxReport(
            **{
                **content,
                **{name: tuple(content[name]) for name in ("loosened", "stood_in", "unenforced")},
                "from_engine": _findings(content["from_engine"]),
                "from_host": _findings(content["from_host"]),
            }
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _findings(content: Sequence[dict[str, Any]]) -> tuple[Finding, ...]:
    return tuple(Finding(**one) for one in content)
