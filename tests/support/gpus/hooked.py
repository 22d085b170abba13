"""A private Docker engine that takes requests for GPUs, and what its hook was asked for."""

from __future__ import annotations

import io
import json
import os
import tarfile
import tempfile
from pathlib import Path
from typing import Self

from tests.support import engine
from tests.support.dockerd import Dockerd
from tests.support.gpus import hook, stand_in
from tests.support.guard import REPO

IMAGE = "cyxwiz/executor:cuda12-latest"
"""`engine.BASE` with the runner in it, as the executor images have it."""


class HookedEngine:
    """A context manager: ``with HookedEngine(gpus=4) as hooked``."""

    def __init__(self, gpus: int) -> None:
        """``gpus``: how many the hook knows; 0: there is no hook."""
        engine.require()
        self._place = tempfile.TemporaryDirectory(prefix="cyx-hook-")
        place = Path(self._place.name)
        self.records = place / "records"
        if gpus:
            hook.install(place / "bin", self.records, stand_in.library(), gpus)
        self.engine = Dockerd(
            env={"PATH": f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}"},
        )

    @property
    def socket(self) -> Path:
        return self.engine.socket

    def __enter__(self) -> Self:
        self.engine.start()
        engine.import_base(self.socket)
        make_image(self.socket)
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.close()
        self._place.cleanup()

    def asked(self, container: str) -> str:
        """The devices that the hook was asked for, for a container's id."""
        content = json.loads((self.records / f"{container}.json").read_text())
        return str(content["devices"])


def make_image(socket: Path) -> None:
    """Put `IMAGE` into the engine at ``socket``, which has the base."""
    client = engine.raw(socket)
    made = client.create_container(engine.BASE, ["true"])["Id"]
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.add(REPO / "worker" / "runner", "opt/cyxwiz/worker/runner")
        tar.add(REPO / "worker" / "__init__.py", "opt/cyxwiz/worker/__init__.py")
    client.put_archive(made, "/", packed.getvalue())
    repository, tag = IMAGE.split(":")
    libraries = "/usr/lib/x86_64-linux-gnu:/usr/lib/aarch64-linux-gnu:/usr/lib"
    changes = ["ENV PYTHONPATH=/opt/cyxwiz", f"ENV LD_LIBRARY_PATH={libraries}"]
    client.commit(made, repository=repository, tag=tag, changes="\n".join(changes))
    client.remove_container(made)
    client.close()
