"""From `train.delay` to a job's first instruction, and jobs/s, beside a bare Celery task.

The job is ``python3 -S -c …``, which writes down when it began. The baseline is a bare Celery task
(prefork) that calls `subprocess.run` on the same command, on the same Redis, in turns: what else
the host does meanwhile is borne by both. The ratio of the bursts is the median over pairs of them.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from celery import Celery

from benchmarks import report, support
from benchmarks.report import Measure, Report
from tasks.publishing import TRAIN

ONE_BY_ONE = 100
WARM_UP = 5
BURST = 200
BURSTS = 5
SLOTS = 2
# written whole before it gets its name: a reader sees all or nothing
PROGRAM = (
    "import sys, time, posix; now = time.monotonic(); p = sys.argv[1]; "
    "f = open(p + '.new', 'w'); f.write(repr(now)); f.close(); posix.rename(p + '.new', p)"
)
INTERPRETER = str(Path(sys.executable).resolve())

Submit = Callable[[Path], None]


def ours(app: Celery) -> Submit:
    """Submits the job to the project's node."""

    def submit(place: Path) -> None:
        command = [INTERPRETER, "-S", "-c", PROGRAM, str(place)]
        app.send_task(TRAIN, [{"command": command}])

    return submit


def bare(app: Celery) -> Submit:
    """Submits it to the bare Celery workers."""

    def submit(place: Path) -> None:
        app.send_task("run", [[INTERPRETER, "-S", "-c", PROGRAM, str(place)]])

    return submit


def one_by_one(submits: dict[str, Submit], directory: Path) -> dict[str, list[float]]:
    """Milliseconds from submit to first instruction, in turns, each on idle slots."""
    found: dict[str, list[float]] = {name: [] for name in submits}
    for number in range(WARM_UP + ONE_BY_ONE):
        for name, submit in submits.items():
            place = directory / f"{name}{number}"
            sent = time.monotonic()
            submit(place)
            support.wait_for(place.exists)
            if number >= WARM_UP:
                found[name].append((float(place.read_text()) - sent) * 1000)
            time.sleep(0.02)  # the slot settles its last job: the next one finds it idle
    return found


def burst(submit: Submit, directory: Path) -> float:
    """Jobs/s from the first submit to the last job's first instruction."""
    directory.mkdir()
    places = [directory / str(number) for number in range(BURST)]
    sent = time.monotonic()
    for place in places:
        submit(place)
    support.wait_for(
        lambda: len(list(directory.iterdir())) >= BURST and all(map(Path.exists, places))
    )
    return BURST / (max(float(place.read_text()) for place in places) - sent)


def measure() -> Report:
    """Run it."""
    with (
        support.redis_hub() as url,
        support.product_node(url, slots=SLOTS) as (_, our_app),
        support.bare_workers(url, workers=1, children=SLOTS) as (_, bare_app),
        support.scratch() as place,
    ):
        submits = {"ours": ours(our_app), "bare": bare(bare_app)}
        latency = one_by_one(submits, Path(place))
        rates: dict[str, list[float]] = {name: [] for name in submits}
        for number in range(BURSTS):
            pair = list(submits.items())
            for name, submit in pair if number % 2 else reversed(pair):
                rates[name].append(burst(submit, Path(place) / f"burst-{name}{number}"))
    p50 = {name: statistics.median(values) for name, values in latency.items()}
    rate = {name: statistics.median(values) for name, values in rates.items()}
    return Report(
        name="dispatch",
        figures={
            "ours, p50 ms": p50["ours"],
            "ours, p99 ms": support.percentile(latency["ours"], 0.99),
            "bare Celery, p50 ms": p50["bare"],
            "bare Celery, p99 ms": support.percentile(latency["bare"], 0.99),
            "ours, jobs/s": rate["ours"],
            "bare Celery, jobs/s": rate["bare"],
        },
        measures=(
            Measure(name="latency", ratio=p50["ours"] / p50["bare"], bound=1.5, at_most=True),
            Measure(
                name="throughput",
                ratio=statistics.median(
                    ours / bare for ours, bare in zip(rates["ours"], rates["bare"], strict=True)
                ),
                bound=0.7,
                at_most=False,
            ),
        ),
    )


if __name__ == "__main__":
    report.main(measure)
