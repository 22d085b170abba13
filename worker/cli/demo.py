"""``cyxwiz demo``: a whole installation for the length of one training."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

import click

from worker.cli.exits import ExitCode, Terminated, guarded
from worker.cli.hub import json_option
from worker.cli.text import columns, duration, note, number, say, say_json

if TYPE_CHECKING:
    from worker.cli.demo_outcome import Kept

_JOB_ID: Final = "digits"
_READY_S: Final = 60.0


@click.command()
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("demo-output"),
    show_default=True,
    metavar="DIR",
    help="Where the trained model is kept.",
)
@click.option(
    "--epochs",
    type=click.IntRange(min=1),
    metavar="N",
    help="How often the training sees all data; left out: 20.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=1),
    default=300.0,
    show_default=True,
    metavar="SECONDS",
    help="Give up after so long.",
)
@json_option
@guarded
def demo(output: Path, epochs: int | None, timeout: float, as_json: bool) -> None:
    """Train a small network, with a Redis and a node of its own.

    The network learns to read handwritten digits, in some seconds. Needs nothing and leaves
    nothing but the model. Ends with 0 if the job succeeded.
    """
    from worker.host import ensure_supported_platform

    ensure_supported_platform()
    with _told_to_end():
        sys.exit(_run(output, epochs, timeout, as_json))


def _run(output: Path, epochs: int | None, timeout: float, as_json: bool) -> ExitCode:
    from worker.cli.demo_outcome import keep, writable

    began = time.monotonic()
    tell = note if as_json else say
    directory = writable(output)
    with ExitStack() as stack:
        result = _train(stack, epochs, timeout, as_json)
        if isinstance(result, ExitCode):
            return result
        kept = keep(result, directory)
        tell("stopping the node and its Redis")
    _conclude(result, kept, time.monotonic() - began, as_json=as_json)
    return ExitCode.OK


def _train(
    stack: ExitStack, epochs: int | None, timeout: float, as_json: bool
) -> Mapping[str, Any] | ExitCode:
    """Everything up to the job's result; what was started is ended with ``stack``."""
    from tasks.job import JobConfig
    from tasks.settings import Settings
    from worker.cli.demo_follow import follow_on
    from worker.cli.demo_job import DIGITS
    from worker.cli.demo_node import demo_directory, demo_node
    from worker.cli.demo_sandbox import demo_sandbox
    from worker.cli.job import read_record
    from worker.cli.submit import submit_jobs
    from worker.cli.views import view_for
    from worker.node.embedded_redis import embedded_redis

    tell = note if as_json else say
    work = stack.enter_context(demo_directory())
    url = stack.enter_context(embedded_redis(work / "redis"))
    tell(f"Redis: one of the demo's own, at {url}")
    sandbox = demo_sandbox(os.environ, work)
    node = stack.enter_context(demo_node(work, url, os.environ, sandbox))
    for line in sandbox.described:
        tell(line)
    node.wait_ready(_READY_S)
    change = {} if epochs is None else {"epochs": epochs}
    # checkpoints are for trainings that may be interrupted; here they would only be in the way
    job = JobConfig.parse({**DIGITS, **change, "job_id": _JOB_ID, "checkpoint_every": 0})
    settings = Settings(redis_url=url)
    submit_jobs([job], settings)
    tell(f"job: {job.epochs} epochs on {job.dataset_uri}, as train.delay(...) submits it")
    code = follow_on(_JOB_ID, settings, view_for([_JOB_ID], as_json=as_json), node, timeout)
    return code if code is not ExitCode.OK else read_record(_JOB_ID, settings).result


def _conclude(result: Mapping[str, Any], kept: Kept, seconds: float, *, as_json: bool) -> None:
    metrics = result.get("metrics") or {}
    if as_json:
        say_json(
            {
                "type": "demo",
                "metrics": metrics,
                "accuracy": metrics.get("accuracy"),
                "model_path": str(kept.model),
                "sha256": kept.sha256,
                "seconds": round(seconds, 3),
                "job_seconds": result.get("seconds"),
                "mode": result.get("mode"),
                "why": result.get("why"),
            }
        )
        return
    accuracy = metrics.get("accuracy")
    held_out = " (on digits held out from the training)" if "val_accuracy" in metrics else ""
    rows = [
        ("accuracy", "-" if accuracy is None else f"{number(accuracy)}{held_out}"),
        ("model", str(kept.model)),
        ("sha256", f"{kept.sha256} (read back from the file)"),
        ("took", f"{duration(seconds)}, of which the job {duration(result.get('seconds') or 0)}"),
        ("mode", str(result.get("mode"))),
        ("because", str(result.get("why"))),
    ]
    say("\n" + columns(rows))


@contextmanager
def _told_to_end() -> Iterator[None]:
    """SIGTERM ends the demo as Ctrl-C does: in order, with everything it started."""

    def handle(number: int, frame: FrameType | None) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
