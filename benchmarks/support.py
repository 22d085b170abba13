"""What benchmarks run on: a Redis, a node of the project, bare Celery workers beside it."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from celery import Celery

from tasks.celery import make_app
from tasks.settings import Settings
from worker.keeper import procfs
from worker.node.embedded_redis import embedded_redis

START_WITHIN_S = 60.0


_MEMORY: Final = Path("/dev/shm")


def scratch() -> tempfile.TemporaryDirectory[str]:
    """A directory of this benchmark's own, in memory where the host has such a file system.

    What a new file costs on a disk is the disk's, and can be most of what there is to see: on ext4
    without a journal each one looks through all that were deleted within minutes, 1 to 2 ms for
    each job of a burst.
    """
    place = _MEMORY if os.access(_MEMORY, os.W_OK) else None
    return tempfile.TemporaryDirectory(prefix="cyxb-", dir=place)


@contextmanager
def redis_hub() -> Iterator[str]:
    """A Redis of this benchmark's own; its URL."""
    with scratch() as place, embedded_redis(Path(place)) as url:
        yield url


@contextmanager
def product_node(
    url: str, *, slots: int, name: str = "bench", timeouts: Mapping[str, float] | None = None
) -> Iterator[tuple[subprocess.Popen[bytes], Celery]]:
    """``cyxwiz node`` with so many CPU slots, all ready; and an app that submits to it.

    ``timeouts``: that section of its configuration.
    """
    with scratch() as place:
        config = Path(place) / "server-node.yaml"
        config.write_text(
            json.dumps(  # JSON is YAML
                {
                    "execution": {"mode": "native", "allow_untrusted_native": True},
                    "node": {"name": name, "state_dir": f"{place}/state"},
                    "slots": {"cpu": slots},
                    "redis": {"url": url},
                    "timeouts": dict(timeouts or {}),
                }
            )
        )
        command = [sys.executable, "-m", "worker.cli", "node", "--config", str(config)]
        with _running(command, Path(place) / "node.log", {}) as process:
            wait_for(lambda: (Path(place) / "node.log").read_text().count("node ready"), process)
            yield process, make_app(Settings(redis_url=url), include=())


def lose(node: subprocess.Popen[bytes]) -> None:
    """Kill every process of a `product_node`: its own, its workers', its keepers and jobs."""
    assert isinstance(node.args, list)
    place = str(Path(node.args[-1]).parent).encode()
    node.kill()
    for pid in procfs.pids():
        if place in (procfs.read_bytes(f"/proc/{pid}/environ") or b""):
            with suppress(ProcessLookupError):  # it went with another one
                os.kill(pid, signal.SIGKILL)


@contextmanager
def bare_workers(
    url: str, *, workers: int, children: int
) -> Iterator[tuple[list[subprocess.Popen[bytes]], Celery]]:
    """Bare Celery workers (prefork, ``children`` each), all ready; and their app."""
    celery_url = Settings(redis_url=url).celery_url
    os.environ["BARE_REDIS"] = celery_url
    from benchmarks.bare import app

    with scratch() as place:
        started: list[Any] = []
        processes: list[subprocess.Popen[bytes]] = []
        try:
            for number in range(workers):
                log = Path(place) / f"{number}.log"
                command = [sys.executable, "-m", "celery", "-A", "benchmarks.bare", "worker"]
                command += ["-c", str(children), "-n", f"bare{number}@%h", "--loglevel", "info"]
                context = _running(command, log, {"BARE_REDIS": celery_url})
                started.append(context)
                processes.append(context.__enter__())
            for number, process in enumerate(processes):
                log = Path(place) / f"{number}.log"
                wait_for(lambda log=log: " ready." in log.read_text(), process)  # type: ignore[misc]  # mypy cannot infer a lambda with a default
            yield processes, app
        finally:
            for context in reversed(started):
                context.__exit__(None, None, None)


@contextmanager
def _running(
    command: Sequence[str], log: Path, env: dict[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    clean = {name: text for name, text in os.environ.items() if not name.startswith("CYXWIZ_")}
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env={**clean, **env})
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def wait_for(there: Callable[[], object], process: subprocess.Popen[bytes] | None = None) -> None:
    """Wait until ``there()``. Raises RuntimeError: it takes too long, or ``process`` ended."""
    until = time.monotonic() + START_WITHIN_S
    while not there():
        if process is not None and process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode}")
        if time.monotonic() > until:
            raise RuntimeError(f"waited {START_WITHIN_S:g} s in vain")
        time.sleep(0.005)


def tree(pid: int) -> list[int]:
    """``pid`` and all that descend from it."""
    found = [pid]
    for one in found:
        found += procfs.children(one) or ()
    return found


def pss_mb(pids: Sequence[int]) -> float:
    """The proportional set size of these processes together, MB."""
    total = 0
    for pid in pids:
        text = procfs.read_bytes(f"/proc/{pid}/smaps_rollup") or b""
        for line in text.splitlines():
            if line.startswith(b"Pss:"):
                total += int(line.split()[1])
    return total / 1000


def percentile(values: Sequence[float], part: float) -> float:
    """The value below which ``part`` (0 to 1) of them lie."""
    return statistics.quantiles(values, n=1000, method="inclusive")[round(part * 1000) - 1]
