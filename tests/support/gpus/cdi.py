"""CDI specifications of stand-in GPUs, for a Podman of the tests.

Podman reads them in /etc/cdi, which must be there and this user's to write to: .ci/run sees to it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import engine
from tests.support.gpus import stand_in
from tests.support.gpus.stand_in import uuid

SPECS = Path("/etc/cdi")


@contextmanager
def specified(place: Path, *, gpus: int, library: str) -> Iterator[None]:
    """GPUs by their UUIDs, for as long as this lasts: each shows itself alone.

    ``place``: for files that go into containers; ``library``: where CUDA's goes there, a directory.
    Two specifications that name the same devices resolve none of them: whoever comes second waits.
    """
    if not os.access(SPECS, os.W_OK):
        why = f"{SPECS} is not there, or not this user's to write to"
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    content = {
        "cdiVersion": "0.3.0",
        "kind": "nvidia.com/gpu",
        "devices": [_device(place, number, library) for number in range(gpus)],
    }
    spec = SPECS / f"cyxwiz-test-{os.getpid()}.json"
    with engine.locked(SPECS / ".cyxwiz-test.lock"):
        spec.write_text(json.dumps(content))
        try:
            yield
        finally:
            spec.unlink()


def _device(place: Path, number: int, library: str) -> dict[str, object]:
    shows = place / f"gpu{number}"
    shows.write_text(f"gpus 1\ngpu 0 uuid {uuid(number)}\n")
    cuda = stand_in.library() / "libcuda.so.1"
    mounts = [(cuda, f"{library}/libcuda.so.1"), (shows, "/etc/stand-in-gpus")]
    return {
        "name": uuid(number),
        "containerEdits": {
            "mounts": [
                {"hostPath": str(path), "containerPath": to, "options": ["ro", "bind"]}
                for path, to in mounts
            ]
        },
    }
