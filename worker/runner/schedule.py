"""The learning rate of each epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from worker.runner.fields import REQUIRED, Fields, number, one_of, whole

_KINDS: Final = ("constant", "step", "exponential", "linear", "cosine", "plateau")
_FACTOR: Final = number(above=0, below=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleOptions:
    """``rate`` below is the optimizer's learning rate; epochs count from 0."""

    kind: str = "constant"
    step_size: int = 1
    """step: epochs between two reductions."""
    gamma: float = 0.1
    """step, exponential and plateau: what the rate is multiplied with."""
    minimum: float = 0.0
    """linear and cosine: the last epoch's share of the rate. plateau: the least share."""
    patience: int = 5
    """plateau: epochs without a better loss before a reduction."""
    warmup_epochs: int = 0
    """Epochs at the beginning in which the rate rises to its full value."""


def schedule_options(values: Mapping[str, Any]) -> ScheduleOptions:
    """The schedule that ``hyperparameters.schedule`` describes. Raises JobFault."""
    where = "hyperparameters.schedule"
    kind = Fields(where, {"type": values.get("type")}).take("type", one_of(*_KINDS), REQUIRED)
    fields = Fields(f"{where} ({kind})", {k: v for k, v in values.items() if k != "type"})
    usual = ScheduleOptions(kind=kind)
    share = number(least=0, below=1)
    found = ScheduleOptions(
        kind=kind,
        step_size=fields.take("step_size", whole(), REQUIRED) if kind == "step" else 1,
        gamma=(
            fields.take("gamma", _FACTOR, 0.95 if kind == "exponential" else usual.gamma)
            if kind in ("step", "exponential", "plateau")
            else usual.gamma
        ),
        minimum=(
            fields.take("minimum", share, 0.0) if kind in ("linear", "cosine", "plateau") else 0.0
        ),
        patience=fields.take("patience", whole(), 5) if kind == "plateau" else usual.patience,
        warmup_epochs=fields.take("warmup_epochs", whole(0), 0),
    )
    fields.done()
    return found


class Schedule:
    """Gives each epoch its share of the learning rate; only a plateau has a memory."""

    def __init__(self, options: ScheduleOptions, epochs: int) -> None:
        self._options = options
        self._epochs = epochs
        self._share = 1.0
        self._best = math.inf
        self._bad = 0

    def share(self, epoch: int) -> float:
        """What the learning rate is multiplied with in ``epoch`` (from 0)."""
        options = self._options
        if epoch < options.warmup_epochs:
            return (epoch + 1) / (options.warmup_epochs + 1)
        at = epoch - options.warmup_epochs
        way = at / max(1, self._epochs - options.warmup_epochs - 1)
        match options.kind:
            case "step":
                return options.gamma ** (at // options.step_size)
            case "exponential":
                return options.gamma**at
            case "linear":
                # never 0, at which an epoch would do nothing
                return max(1.0 - (1.0 - options.minimum) * way, 1e-8)
            case "cosine":
                half = (1 + math.cos(math.pi * way)) / 2
                return max(options.minimum + (1.0 - options.minimum) * half, 1e-8)
            case "plateau":
                return self._share
            case _:
                return 1.0

    def observe(self, loss: float) -> None:
        """The loss after an epoch, on the held-out samples where there are such."""
        if self._options.kind != "plateau":
            return
        if loss < self._best:
            self._best, self._bad = loss, 0
            return
        self._bad += 1
        if self._bad > self._options.patience:
            self._share = max(self._share * self._options.gamma, self._options.minimum, 1e-8)
            self._bad = 0

    def state(self) -> dict[str, float]:
        """For a checkpoint."""
        best = self._best if math.isfinite(self._best) else None  # JSON has no infinity
        return {"share": self._share, "bad": self._bad, **({} if best is None else {"best": best})}

    def restore(self, state: Mapping[str, float]) -> None:
        """Go on from `state`."""
        self._share, self._bad = state["share"], int(state["bad"])
        self._best = state.get("best", math.inf)
