"""What a hardened container costs through the runtime, beside docker-py doing the bare minimum.

Three figures: the turn of a one-line job (create, keeper, read-back from engine and host, output,
end, removal) against docker-py's create + attach + start + wait + remove with the same options, one
after the other and two at once; lines/s of a job that prints as fast as it can against docker-py's
attach; and the training loop of the digits in the executor image against the same natively. Beside
them, without a bound, the turn in gVisor.

Needs root and dockerd: it runs on a private engine with a base made of this host's Python. An
ordinary user's run measures the turn on a rootless Podman of its own instead, beside the same calls
of Podman's API and nothing more.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.report import Measure, Report
from tests.integration.engine.jobs import Jobs
from tests.support import dockerd, engine, podman
from tests.support.guard import REPO
from tests.support.runtimes import hear, soon
from worker.plan import LaunchPlan, Limits
from worker.runtimes.base import Chunk

TURNS = 30
FLOODS = 11
"""Pairs: how two CPUs are shared between engine, shim, job and reader varies by a factor of two."""
LINES = 400_000
LINE = b"x" * 149 + b"\n"
LIMITS = Limits(memory_mb=1024, cpu_cores=2, shm_size_mb=64, pids=256, nofile=4096, output_mb=256)
DIGITS = {
    "job_id": "bench",
    "dataset_uri": "builtin:digits",
    "model_definition": {
        "layers": [
            {"type": "Dense", "units": 128},
            {"type": "ReLU"},
            {"type": "Dense", "units": 10},
        ]
    },
    "epochs": 30,
    "seed": 7,
}


@contextmanager
def node() -> Iterator[tuple[Jobs, Any]]:
    """A runtime on an engine of this benchmark's own, and docker-py beside it."""
    with tempfile.TemporaryDirectory(prefix="cyxb-") as place, dockerd.Dockerd() as started:
        engine.import_base(started.socket)
        jobs = Jobs(Path(place), started.socket)
        jobs.runtime.prepare(engine.BASE, lambda _: None)
        raw = engine.raw(started.socket)
        try:
            yield jobs, raw
        finally:
            raw.close()
            jobs.close()


def ours(jobs: Jobs, source: str) -> float:
    """Seconds for one turn through the runtime."""
    plan = jobs.plan(source, limits=LIMITS)
    began = time.perf_counter()
    handle = jobs.runtime.start(plan, soon())
    assert hear(handle).out == b"1\n"
    handle.remove()
    return time.perf_counter() - began


def config_of(jobs: Jobs, plan: LaunchPlan) -> dict[str, Any]:
    """The create call that the runtime would make: so that only the way there differs."""
    for directory in (plan.checkpoints, plan.output):
        directory.mkdir(parents=True, exist_ok=True)
        os.chown(directory, 1000, 1000)
    return jobs.runtime.starting.asked(plan, jobs.runtime.images.present(plan.image or ""))


def bare(jobs: Jobs, raw: Any, source: str) -> float:
    """Seconds for one turn of docker-py."""
    config = config_of(jobs, jobs.plan(source, limits=LIMITS))
    began = time.perf_counter()
    turned(raw, raw.create_container_from_config(config, None)["Id"])
    return time.perf_counter() - began


def turned(raw: Any, made: str) -> None:
    """From a container that was made to nothing."""
    output = raw.attach(made, stream=True)
    raw.start(made)
    assert b"".join(output) == b"1\n"
    raw.wait(made)
    raw.remove_container(made, v=True, force=True)


def turns(
    jobs: Jobs, raw: Any, at_once: int, plain: Callable[[Jobs, Any, str], float] = bare
) -> tuple[float, float]:
    """Median seconds of a turn of ours and of docker-py's, taken by turns."""
    source = "print(1)"
    taken: dict[str, list[float]] = {"ours": [], "bare": []}
    ways: dict[str, Callable[[], float]] = {
        "ours": lambda: ours(jobs, source),
        "bare": lambda: plain(jobs, raw, source),
    }
    with ThreadPoolExecutor(at_once) as pool:
        for _ in range(TURNS // at_once):
            for name, turn in ways.items():
                taken[name] += [one.result() for one in [pool.submit(turn) for _ in range(at_once)]]
    return statistics.median(taken["ours"]), statistics.median(taken["bare"])


FLOOD = f"import os\nfor _ in range({LINES}): os.write(1, {LINE!r})"


def flood_ours(jobs: Jobs) -> float:
    """Lines/s through the keeper."""
    handle = jobs.runtime.start(jobs.plan(FLOOD, limits=LIMITS), soon())
    began, seen = 0.0, 0
    while isinstance(chunk := handle.read(30), Chunk):
        began = began or time.perf_counter()
        seen = chunk.offset + len(chunk.data)
        handle.ack(chunk.stream, seen)
    took = time.perf_counter() - began
    assert seen == LINES * len(LINE)
    handle.remove()
    return LINES / took


def flood_bare(jobs: Jobs, raw: Any) -> float:
    """Lines/s of docker-py's attach."""
    made = raw.create_container_from_config(config_of(jobs, jobs.plan(FLOOD, limits=LIMITS)), None)[
        "Id"
    ]
    output = raw.attach(made, stream=True)
    raw.start(made)
    began, seen = 0.0, 0
    for data in output:
        began = began or time.perf_counter()
        seen += len(data)
    took = time.perf_counter() - began
    assert seen == LINES * len(LINE)
    raw.remove_container(made, v=True, force=True)
    return LINES / took


def training_loop(output: bytes) -> float:
    """Seconds from the first epoch's line to the last one's, by the job's own clock."""
    lines = [json.loads(line) for line in output.splitlines() if line.startswith(b"{")]
    stamps = [one["timestamp"] for one in lines if one["type"] == "progress"]
    return float(stamps[-1] - stamps[0])


def train_inside(jobs: Jobs) -> float:
    encoded = base64.b64encode(json.dumps(DIGITS).encode()).decode()
    plan = jobs.plan(
        "",
        limits=LIMITS,
        image=engine.EXECUTOR,
        argv=("python3", "-m", "worker.runner", f"--job-config={encoded}"),
        env={
            "OMP_NUM_THREADS": "1",
            "CYXWIZ_JOB_ID": "bench",
            "CYXWIZ_CHECKPOINTS": "/job/checkpoints",
            "CYXWIZ_OUTPUT": "/job/output",
        },
    )
    handle = jobs.runtime.start(plan, soon(300))
    heard = hear(handle, timeout=120)
    handle.remove()
    return training_loop(heard.out)


def train_natively(place: Path) -> float:
    encoded = base64.b64encode(json.dumps(DIGITS).encode()).decode()
    with tempfile.TemporaryDirectory(dir=place) as at:
        for name in ("checkpoints", "output"):
            (Path(at) / name).mkdir()
        done = subprocess.run(
            [sys.executable, "-m", "worker.runner", f"--job-config={encoded}"],
            cwd=REPO,
            env={
                "PATH": os.defpath,
                "OMP_NUM_THREADS": "1",
                "CYXWIZ_JOB_ID": "bench",
                "CYXWIZ_CHECKPOINTS": f"{at}/checkpoints",
                "CYXWIZ_OUTPUT": f"{at}/output",
            },
            capture_output=True,
            check=True,
        )
    return training_loop(done.stdout)


def bare_podman(jobs: Jobs, raw: Any, source: str) -> float:
    """Seconds for one turn of Podman's own calls."""
    plan = jobs.plan(source, limits=LIMITS)
    for directory in (plan.checkpoints, plan.output):
        directory.mkdir(parents=True, exist_ok=True)
    asked = jobs.runtime.starting.asked(plan, jobs.runtime.images.present(plan.image or ""))
    asked = jobs.runtime.making.asked(asked)
    began = time.perf_counter()
    # one call, no more
    turned(raw, jobs.runtime.making.create(f"bare-{plan.attempt.job_id}", asked))
    return time.perf_counter() - began


def measure_podman() -> Report:
    why = podman.missing()
    if why is not None:
        sys.exit(f"container: {why}")
    with tempfile.TemporaryDirectory(prefix="cyxb-") as place, podman.Podman() as started:
        engine.import_base(started.socket)
        jobs = Jobs(Path(place), started.socket, engine="podman")
        raw = engine.raw(started.socket)
        ours(jobs, "print(1)"), bare_podman(jobs, raw, "print(1)")  # warm both
        alone, bare_alone = turns(jobs, raw, 1, bare_podman)
        raw.close()
        jobs.close()
    return Report(
        name="container",
        figures={"turn on Podman, ms": alone * 1e3, "turn of Podman's calls, ms": bare_alone * 1e3},
        measures=(
            Measure(name="turn on Podman", ratio=alone / bare_alone, bound=1.25, at_most=True),
        ),
    )


def gvisor_turn(jobs: Jobs) -> dict[str, float]:
    """What the same turn costs with gVisor: a figure, whose bound is not ours to keep."""
    if shutil.which("runsc") is None:
        return {}
    other = Jobs(jobs.places.root / "gvisor", jobs.socket, engine="gvisor")
    try:
        ours(other, "print(1)")
        taken = [ours(other, "print(1)") for _ in range(TURNS // 3)]
    finally:
        other.close()
    return {"turn in gVisor, ms": statistics.median(taken) * 1e3}


def measure() -> Report:
    if os.geteuid() != 0:
        return measure_podman()
    why = dockerd.missing()
    if why is not None:
        sys.exit(f"container: {why}")
    with node() as (jobs, raw):
        ours(jobs, "print(1)"), bare(jobs, raw, "print(1)")  # warm both
        alone, bare_alone = turns(jobs, raw, 1)
        pair, bare_pair = turns(jobs, raw, 2)
        rates = [(flood_ours(jobs), flood_bare(jobs, raw)) for _ in range(FLOODS)]
        lines, bare_lines = (statistics.median(column) for column in zip(*rates, strict=True))
        lines_ratio = statistics.median(ours / bare for ours, bare in rates)
        engine.build_images(jobs.socket, "cpu")
        in_gvisor = gvisor_turn(jobs)
        loops = [(train_inside(jobs), train_natively(jobs.places.root)) for _ in range(5)]
        inside, outside = (min(column) for column in zip(*loops, strict=True))
    return Report(
        name="container",
        figures={
            "turn, ms": alone * 1e3,
            "turn of docker-py, ms": bare_alone * 1e3,
            "turn, two at once, ms": pair * 1e3,
            "turn of docker-py, two at once, ms": bare_pair * 1e3,
            "lines/s": lines,
            "lines/s of docker-py": bare_lines,
            "training loop in the container, s": inside,
            "training loop natively, s": outside,
            **in_gvisor,
        },
        measures=(
            Measure(name="turn", ratio=alone / bare_alone, bound=1.25, at_most=True),
            Measure(name="turn, two at once", ratio=pair / bare_pair, bound=1.25, at_most=True),
            Measure(name="lines", ratio=lines_ratio, bound=0.8, at_most=False),
            Measure(name="training loop", ratio=inside / outside, bound=1.05, at_most=True),
        ),
    )


if __name__ == "__main__":
    report.main(measure)
