"""Data ready for training: everything scaled, in the types that trainers take."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from worker.runner.data.split import Split
from worker.runner.faults import JobFault
from worker.runner.lazy import Array, np
from worker.runner.model.layers import Layer
from worker.runner.options import Options


@dataclass(frozen=True, kw_only=True, slots=True)
class Scaling:
    """``(value - mean) / std``, per feature, channel or target."""

    mean: Array
    std: Array

    def apply(self, values: Array) -> Array:
        """Scaled, as float32."""
        return ((values.astype(np.float32) - self.mean) / self.std).astype(np.float32)

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
        x, held_x = split.x.astype(np.float32), split.held_x.astype(np.float32)
    y, held_y = split.y, split.held_y
    wanted = options.normalize_target
    if split.classes is None and (linear_end if wanted is None else wanted):
        target_scaling = _scaling(y)
        y, held_y = target_scaling.apply(y), target_scaling.apply(held_y)
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
    axes = tuple(range(values.ndim - 1))
    mean = values.mean(axis=axes, dtype=np.float64)
    std = values.std(axis=axes, dtype=np.float64)
    # what never changes is left as it is, and not blown up
    std = np.where(std > 1e-7 * np.maximum(1e-7, np.abs(mean)), std, 1.0)
    return Scaling(mean=mean.astype(np.float32), std=std.astype(np.float32))


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
