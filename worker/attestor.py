"""What a node's container engines are good for: from a probe, run once of each engine and version.

The answer is kept in the node's state directory, so that its processes ask one another and not the
engine. It holds for one engine, version, kernel and policy; a probe that failed is tried again.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tasks.errors import ConfigError, CyxWizError
from worker.config import NodeConfig
from worker.sandbox.attestation import concluded
from worker.sandbox.engine_report import EngineFacts, EngineReport, ExecutionCapabilities
from worker.sandbox.mode import usable_engine
from worker.sandbox.probed import Probed, probed_from

if TYPE_CHECKING:
    from worker.runtimes.engine.runtime import EngineRuntime

log = logging.getLogger(__name__)

_FORM: Final = 2
"""Of the file, and of what a probe does: another number probes again."""
_TRY_AGAIN_S: Final = 30.0
_MOST_IMAGES: Final = 5
ENGINES: Final = ("docker", "podman")


class Attestor:
    """See the module's docstring."""

    def __init__(self, config: NodeConfig, *, within: float | None = None) -> None:
        """``within``: seconds after which a probe is given up; None: as usual."""
        self._config = config
        self._state_dir = config.node.state_dir
        self._within = within

    def report(self, runtime: EngineRuntime, *, again: bool = False) -> EngineReport:
        """What the engine of ``runtime`` is good for. ``again``: probe it, whatever is known.

        Never raises: what is wrong is the report's to say.
        """
        found = runtime.capabilities()
        if not found.available:
            facts = EngineFacts(name=found.name, version="")
            return EngineReport(facts=facts, reason=found.reason, todo=_cure(found.name))
        try:
            facts = runtime.facts()
            images = self._images(runtime)
            probed = self._probed(runtime, images, again)
        except (CyxWizError, OSError) as error:
            facts = EngineFacts(name=found.name, version="")
            return EngineReport(facts=facts, reason=str(error), todo=_cure(found.name))
        return concluded(
            facts,
            probed,
            accepted=map(str, runtime.settings.accept_unenforced),
            images=images,
            require_patched=self._config.trust.require_patched,
        )

    def _images(self, runtime: EngineRuntime) -> list[str]:
        """Those that are here and that the node may use, the likeliest to have a Python first."""
        there = [tag for image in runtime.manager.list_images() for tag in image.tags]
        known = [one for one in self._config.docker.preload_images if _named(runtime, one) in there]
        # only some are tried, and one that is not allowed here must not take another's place
        fine = {tag for tag in there if _named(runtime, tag)}
        own = fine.intersection(runtime.images.tags())
        return list(dict.fromkeys([*reversed(known), *sorted(own), *sorted(fine - own)]))

    def _probed(self, runtime: EngineRuntime, images: list[str], again: bool) -> Probed:
        key = self._key(runtime)
        if not self._state_dir.is_dir():
            with tempfile.TemporaryDirectory(prefix="cyxwiz-probe-") as place:
                return self._run(runtime, images, Path(place))
        path = self._state_dir / "probes" / f"{runtime.capabilities().name}.json"
        asked = time.time()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        kept = None if again else _kept(path, key, images, asked)
        if kept is not None:
            return kept
        with _alone(path.with_suffix(".lock")):
            # another process may have done it meanwhile
            kept = _kept(path, key, images, asked, since=asked if again else 0.0)
            if kept is not None:
                return kept
            probed = self._run(runtime, images, self._state_dir)
            content = {"key": key, "at": time.time(), "images": images, "probed": asdict(probed)}
            partial = path.with_suffix(".partial")
            partial.write_text(json.dumps(content))
            partial.replace(path)
            return probed

    def _run(self, runtime: EngineRuntime, images: list[str], place: Path) -> Probed:
        from worker.runtimes.engine.probe import WITHIN_S, probe

        began = time.monotonic()
        probed = probe(runtime, images[:_MOST_IMAGES], place, within=self._within or WITHIN_S)
        took = time.monotonic() - began
        log.info(
            "engine.probed name=%s image=%s seconds=%.1f error=%s",
            runtime.capabilities().name,
            probed.image,
            took,
            probed.error,
        )
        return probed

    def _key(self, runtime: EngineRuntime) -> dict[str, Any]:
        facts = asdict(runtime.facts())
        return {
            "form": _FORM,
            "engine": runtime.identity(),
            "facts": {**facts, "loosened": list(facts["loosened"])},
            "profile": repr(runtime.settings.profile),
            "kernel": platform.release(),
            "boot": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        }


def capabilities(config: NodeConfig, *, again: bool = False) -> ExecutionCapabilities:
    """What this host can do for jobs that want a container, engine by engine, whichever the node
    would use. ``again``: probe them, whatever is known."""
    from worker.runtimes import engine_runtime

    found = []
    attestor = Attestor(config)
    for name in ENGINES:
        section = config.docker if name == "docker" else config.podman
        if not section.enabled:
            facts = EngineFacts(name=name, version="")
            todo = f"set {name}.enabled: true"
            why = f"{name}.enabled is false"
            found.append(EngineReport(facts=facts, reason=why, todo=todo))
            continue
        try:
            runtime = engine_runtime(name, config, abandon_after=0.0)
        except ConfigError as error:  # its file of logins
            facts = EngineFacts(name=name, version="")
            found.append(EngineReport(facts=facts, reason=str(error), todo="mend that file"))
            continue
        try:
            found.append(attestor.report(runtime, again=again))
        finally:
            runtime.close()
    best = usable_engine(ExecutionCapabilities(engines=tuple(found)), config.execution.mode)
    return ExecutionCapabilities(engines=tuple(found), has_gvisor=best is not None and best.gvisor)


def _named(runtime: EngineRuntime, text: str) -> str:
    """What the engine calls the image ``text``; '' where the node may not use it."""
    from worker.runtimes.engine.errors import ImageForbidden

    try:
        return str(runtime.images.reference(text))
    except ImageForbidden:
        return ""


def _kept(
    path: Path, key: dict[str, Any], images: list[str], now: float, since: float = 0.0
) -> Probed | None:
    """What is known already; None where a probe has to tell."""
    try:
        content = json.loads(path.read_bytes())
        probed = probed_from(content["probed"])
        at = float(content["at"])
        same = content["key"] == key and at >= since
        tried = content["images"] == images and now - at < _TRY_AGAIN_S
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return probed if same and (tried or not probed.error) else None


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _cure(name: str) -> str:
    if name == "docker":
        return "see that the Docker Engine runs (docker info), and that docker.socket is its socket"
    return (
        "as the node's user: systemctl --user enable --now podman.socket; or set podman.socket to "
        "where its service listens"
    )
