"""Early stopping: which epoch was the best, and whether to wait for a better one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from worker.runner.faults import JobFault
from worker.runner.options import EarlyStopping

_HIGHER = frozenset({"accuracy", "precision", "recall", "f1", "r2"})


class Stopping:
    """Watches one metric. Without options it never stops, and keeps no best epoch."""

    def __init__(self, options: EarlyStopping | None, *, has_held_out: bool) -> None:
        self._options = options
        self.metric = (options and options.metric) or ("val_loss" if has_held_out else "loss")
        self.best: float | None = None
        self.best_epoch = 0
        """Counted from 1; 0: none yet."""
        self._waited = 0

    @property
    def keeps_best(self) -> bool:
        """Whether the best epoch's weights are the result."""
        return self._options is not None and self._options.restore_best

    @property
    def over(self) -> bool:
        """Whether enough epochs have passed without a better one."""
        return self._options is not None and self._waited >= self._options.patience

    def observe(self, epoch: int, metrics: Mapping[str, float | None]) -> bool:
        """The metrics after ``epoch`` (from 1); whether it is the best so far.

        Raises JobFault: the watched metric is not among them.
        """
        if self._options is None:
            return False
        value = metrics.get(self.metric)
        if value is None:
            raise JobFault(
                f"hyperparameters.early_stopping: metric {self.metric!r} is not measured; one of "
                + ", ".join(metrics)
            )
        if self._better(value):
            self.best, self.best_epoch, self._waited = value, epoch, 0
            return True
        self._waited += 1
        return False

    def _better(self, value: float) -> bool:
        if self.best is None or self._options is None:
            return math.isfinite(value)
        gain = self.best - value
        if self.metric.removeprefix("val_") in _HIGHER:
            gain = -gain
        return gain > self._options.min_delta

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"best": self.best, "best_epoch": self.best_epoch, "waited": self._waited}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self.best, self.best_epoch = state["best"], state["best_epoch"]
        self._waited = state["waited"]
