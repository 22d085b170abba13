"""Data as a source gives them, before the model says what they are for."""

from __future__ import annotations

from dataclasses import dataclass

from worker.runner.lazy import Array


@dataclass(frozen=True, kw_only=True, slots=True)
class Raw:
    """All samples."""

    x: Array
    """(samples, …): numbers."""
    y: Array
    """(samples,) or (samples, targets): numbers, or texts."""
    suggested: str | None = None
    """The task, if the source leaves no doubt."""
    classes: tuple[str | int, ...] | None = None
    """The names of the classes 0, 1, … that ``y`` has, where the source names them."""
    features: tuple[str, ...] = ()
    target: str = ""
    held_out: Array | None = None
    """Which samples the source itself holds out; None: it says nothing."""
