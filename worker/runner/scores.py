"""Losses and metrics of predictions, with numpy: the same for every trainer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from worker.runner.data.prepare import Scaling
from worker.runner.faults import JobFault
from worker.runner.lazy import Array, np
from worker.runner.model_file import chosen

_LEAST: Final = 1e-7
"""A probability of 0 would make the loss infinite."""

_OF_CLASSES: Final = ("accuracy", "precision", "recall", "f1")
_OF_NUMBERS: Final = ("mae", "mse", "rmse", "r2")


def metric_names(asked: Sequence[str], *, classes: bool) -> tuple[str, ...]:
    """The metrics to report: the usual ones, then those asked for. Raises JobFault."""
    known = _OF_CLASSES if classes else _OF_NUMBERS
    for name in asked:
        if name not in known:
            what = "classes" if classes else "numbers"
            raise JobFault(
                f"model_definition: metrics: {name!r} is unknown for {what}; one of "
                + ", ".join(known)
            )
    usual = ("accuracy",) if classes else ("mae", "rmse", "r2")
    return tuple(dict.fromkeys((*usual, *asked)))


def loss_of(loss: str, outputs: Array, y: Array) -> float:
    """The mean loss of a model's outputs (probabilities, or scaled numbers)."""
    match loss:
        case "cross_entropy":
            right = outputs[np.arange(len(y)), y].astype(np.float64)
            return float(-np.log(np.maximum(right, _LEAST)).mean())
        case "bce":
            second = outputs[:, 0].astype(np.float64)
            right = np.where(y == 1, second, 1 - second)
            return float(-np.log(np.maximum(right, _LEAST)).mean())
        case "mae":
            return float(np.abs(outputs.astype(np.float64) - y).mean())
        case _:
            return float(((outputs.astype(np.float64) - y) ** 2).mean())


def scores(
    names: Sequence[str], outputs: Array, y: Array, scaling: Scaling | None
) -> dict[str, float]:
    """The metrics called ``names``; numbers in the unit of the data, whatever was scaled."""
    if y.ndim == 1:
        return _class_scores(names, chosen(outputs), y, max(2, outputs.shape[1]))
    if scaling is not None:
        outputs, y = scaling.undo(outputs), scaling.undo(y)
    off = outputs.astype(np.float64) - y
    squared = float((off**2).mean())
    spread = float(((y - y.mean(axis=0, dtype=np.float64)) ** 2).mean())
    found: dict[str, Callable[[], float]] = {
        "mae": lambda: float(np.abs(off).mean()),
        "mse": lambda: squared,
        "rmse": lambda: squared**0.5,
        "r2": lambda: 1 - squared / spread if spread else 0.0,
    }
    return {name: found[name]() for name in names}


def _class_scores(names: Sequence[str], said: Array, y: Array, classes: int) -> dict[str, float]:
    """Precision, recall and F1 are the means over the classes that occur."""
    right = np.bincount(y[said == y], minlength=classes).astype(np.float64)
    told, there = np.bincount(said, minlength=classes), np.bincount(y, minlength=classes)
    seen = (told + there) > 0
    found = {
        "accuracy": float((said == y).mean()),
        "precision": float((right / np.maximum(told, 1))[seen].mean()),
        "recall": float((right / np.maximum(there, 1))[seen].mean()),
        "f1": float((2 * right / np.maximum(told + there, 1))[seen].mean()),
    }
    return {name: found[name] for name in names}
