"""How followed jobs are shown: JSON lines, plain lines, or bars on a terminal."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final, Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from tasks import events
from tasks.events import Envelope, to_json
from worker.cli.eventlines import lines, metrics_of
from worker.cli.text import number, on_terminal, safe, say

_NAME: Final = 16
"""Characters of a job's id beside its bar."""


class View(Protocol):
    """Shows events as they come."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def show(self, envelope: Envelope) -> None: ...


def view_for(job_ids: Sequence[str], *, as_json: bool) -> View:
    """The view for stdout as it is: bars only on a terminal."""
    if as_json:
        return JsonView()
    return BarView(job_ids) if on_terminal() else LineView(several=len(job_ids) > 1)


class JsonView:
    """Each event as it travels: one JSON object a line."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def show(self, envelope: Envelope) -> None:
        say(to_json(envelope))


class LineView:
    """A line for each event."""

    def __init__(self, *, several: bool) -> None:
        self._several = several

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def show(self, envelope: Envelope) -> None:
        for line in lines(envelope):
            say(_headed(envelope, line, several=self._several))


class BarView:
    """A bar for each job, and above them a line for each event but progress and checkpoints."""

    def __init__(self, job_ids: Sequence[str], console: Console | None = None) -> None:
        self._several = len(job_ids) > 1
        self._console = console or Console(highlight=False)
        # `markup=False` throughout: what a job says must not be read as rich's markup
        self._progress = Progress(
            *([TextColumn("{task.fields[name]}", markup=False)] if self._several else ()),
            BarColumn(bar_width=16),
            TextColumn("{task.percentage:>3.0f} %", markup=False),
            TextColumn("{task.fields[said]}", markup=False),
            TimeElapsedColumn(),
            console=self._console,
            refresh_per_second=8,
        )
        self._bars: dict[str, TaskID] = {
            job_id: self._progress.add_task("", total=None, name=_short(job_id), said="")
            for job_id in job_ids
        }

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, envelope: Envelope) -> None:
        event, bar = envelope.event, self._bars[envelope.job_id]
        if isinstance(event, events.Progress):
            self._advance(bar, event)
            return
        if isinstance(event, events.Checkpoint):
            return  # one an epoch would drive everything else off the screen
        for line in lines(envelope):
            text = Text(_headed(envelope, line, several=self._several), overflow="fold")
            self._console.print(text)
        if isinstance(event, events.Retrying):
            self._progress.update(bar, completed=0, said="")
        if events.is_end(event):
            if isinstance(event, events.Succeeded):
                self._progress.update(bar, total=1.0, completed=1.0)
            self._progress.stop_task(bar)

    def _advance(self, bar: TaskID, event: events.Progress) -> None:
        said = [f"epoch {event.epoch}/{event.total_epochs}"] if event.total_epochs else []
        said += [f"{name} {number(value)}" for name, value in _few(metrics_of(event)).items()]
        shown: dict[str, Any] = {"said": safe("  ".join(said))}
        if event.total_epochs:
            shown |= {"total": 1.0, "completed": min(1.0, max(0.0, event.progress))}
        self._progress.update(bar, **shown)


def _few(metrics: dict[str, float]) -> dict[str, float]:
    """As many as fit beside a bar."""
    return dict(list(metrics.items())[:2])


def _short(job_id: str) -> str:
    return job_id if len(job_id) <= _NAME else f"{job_id[: _NAME - 1]}…"


def _headed(envelope: Envelope, line: str, *, several: bool) -> str:
    at = time.strftime("%H:%M:%S", time.localtime(envelope.ts))
    return f"{at} {envelope.job_id} {line}" if several else f"{at} {line}"
