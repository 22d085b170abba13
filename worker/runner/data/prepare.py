"""Data ready for training: everything scaled, in the types that trainers take."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from math import prod
from typing import Any, Final

from worker.runner.data.split import Split
from worker.runner.faults import JobFault
from worker.runner.lazy import Array, np
from worker.runner.model.layers import Layer
from worker.runner.options import Options

_AT_ONCE: Final = 1 << 20
"""Numbers that are scaled at once, so that the steps between take little memory."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scaling:
    """``(value - mean) / std``, per feature, channel or target; in the precision of ``mean``."""

    mean: Array
    std: Array

    def apply(self, values: Array) -> Array:
        """Scaled, as float32."""
        made = np.empty(values.shape, dtype=np.float32)
        rows = max(1, _AT_ONCE // max(1, prod(values.shape[1:])))
        for at in range(0, len(values), rows):
            part = values[at : at + rows].astype(self.mean.dtype)
            made[at : at + rows] = (part - self.mean) / self.std
        return made

    def undo(self, values: Array) -> Array:
        """As they were."""
        return values * self.std + self.mean


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """What a trainer trains with."""

    x: Array
    """(samples, …): scaled float32, or int64 for an Embedding."""
    y: Array
    """Classes as int64 (samples,), or scaled float32 (samples, targets)."""
    held_x: Array
    held_y: Array
    input_scaling: Scaling | None
    target_scaling: Scaling | None
    digest: str
    """SHA-256 of the arrays: a resumed run must have the same data."""


def prepare(split: Split, first: Layer, options: Options, *, linear_end: bool) -> Prepared:
    """Scale a split. ``linear_end``: the model's outputs may be any number. Raises JobFault."""
    input_scaling = target_scaling = None
    if first.kind == "Embedding":
        if options.normalize:
            raise JobFault("hyperparameters: normalize: what an Embedding gets is not scaled")
        x, held_x = _indexes(first, split.x), _indexes(first, split.held_x)
    elif options.normalize is not False:
        input_scaling = _scaling(split.x)
        x, held_x = input_scaling.apply(split.x), input_scaling.apply(split.held_x)
    else:
        x, held_x = _single(split.x, "normalize"), _single(split.held_x, "normalize")
    y, held_y = split.y, split.held_y
    wanted = options.normalize_target
    if split.classes is None and (linear_end if wanted is None else wanted):
        target_scaling = _scaling(y)
        y, held_y = target_scaling.apply(y), target_scaling.apply(held_y)
    elif split.classes is None:
        y, held_y = _single(y, "normalize_target"), _single(held_y, "normalize_target")
    arrays = [np.ascontiguousarray(one) for one in (x, y, held_x, held_y)]
    return Prepared(
        x=arrays[0],
        y=arrays[1],
        held_x=arrays[2],
        held_y=arrays[3],
        input_scaling=input_scaling,
        target_scaling=target_scaling,
        digest=_digest(arrays),
    )


def _scaling(values: Array) -> Scaling:
    """Raises JobFault."""
    axes = tuple(range(values.ndim - 1))
    mean = values.mean(axis=axes, dtype=np.float64)
    std = values.std(axis=axes, dtype=np.float64)
    if not np.isfinite(std).all():
        raise JobFault("the data have numbers too large to be squared (above 1e150); scale them")
    kind = precision(values.dtype)
    least = 1e-7 if kind is np.float32 else 1e-13
    # what never changes is 0, and not what its mean was off by
    most = values.max(axis=axes)
    changes = most != values.min(axis=axes)
    mean = np.where(changes, mean, most)
    std = np.where(changes & (std > least * np.maximum(1e-7, np.abs(mean))), std, 1.0)
    return Scaling(mean=mean.astype(kind), std=std.astype(kind))


def precision(kind: Any) -> type:
    """What numbers of that type are kept and scaled in: in float32 a Unix time is 128 s wide."""
    return np.float32 if kind == np.float32 or kind.itemsize <= 2 else np.float64


def _single(values: Array, option: str) -> Array:
    """As float32, not scaled. Raises JobFault."""
    most = max(float(values.max()), float(values.min()), key=abs) if values.size else 0.0
    if abs(most) > np.finfo(np.float32).max:
        raise JobFault(
            f"the data have numbers such as {most:g}, too large to be used as they are; leave "
            f"hyperparameters.{option} on"
        )
    return values.astype(np.float32)


def _indexes(layer: Layer, values: Array) -> Array:
    found = values.astype(np.int64)
    if not np.array_equal(found, values):
        raise layer.wrong("takes whole numbers, and the data have others")
    most = layer.options["num_embeddings"]
    if found.size and (found.min() < 0 or found.max() >= most):
        raise layer.wrong(
            f"num_embeddings is {most}, and the data have numbers from {found.min()} to "
            f"{found.max()}"
        )
    return found


def _digest(arrays: list[Array]) -> str:
    digest = hashlib.sha256()
    for one in arrays:
        digest.update(f"{one.dtype} {one.shape}\n".encode())
        if one.size:
            digest.update(one.data)
    return digest.hexdigest()
