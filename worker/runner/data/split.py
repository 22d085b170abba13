"""Which samples are held out, and what classes are called.

The split rests on the data and the seed alone: every attempt of a job, and whoever loads the
model later, gets the same one (`held_out`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Final

from worker.runner.data import source
from worker.runner.data.raw import Raw
from worker.runner.faults import JobFault
from worker.runner.jobspec import JobSpec, job_spec
from worker.runner.lazy import Array, np
from worker.runner.model import head, layers
from worker.runner.model.layers import Layer
from worker.runner.model.shapes import Shape
from worker.runner.options import Options
from worker.runner.options import parse as parse_options

_SPLIT: Final = 0x5EED
"""Sets the split's random numbers apart from those of training."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """The samples as the source has them, in the shape that the model takes."""

    x: Array
    y: Array
    """Classes as int64 (samples,), or numbers (samples, targets)."""
    held_x: Array
    held_y: Array
    """May be empty."""
    classes: tuple[str | int, ...] | None
    """What class 0, 1, … is called; None: the target is numbers."""
    features: tuple[str, ...]
    target: str
    drawn: bool = False
    """Whether the seed says what is held out, and not the source."""

    @property
    def targets(self) -> int:
        """How many numbers are predicted; 1 for classes."""
        return 1 if self.classes is not None else int(self.y.shape[1])


def load_split(
    job: JobSpec, data: Path | None, options: Options, definition: tuple[Layer, ...]
) -> Split:
    """A job's samples. Raises JobFault, EnvironmentLacks."""
    raw = source.load(job.dataset_uri, data, options)
    task = head.decide_task(
        said=options.task, loss=job.loss, suggested=raw.suggested, layers=definition
    )
    y, classes = _classes(raw) if task == "classification" else (_numbers(raw), None)
    held = raw.held_out
    if held is None:
        held = _held(y if classes is not None else None, len(y), options.validation_split, job.seed)
    x = raw.x.reshape(len(y), *_shape(raw, job.input_shape))
    return Split(
        x=x[~held],
        y=y[~held],
        held_x=x[held],
        held_y=y[held],
        classes=classes,
        features=raw.features,
        target=raw.target,
        drawn=raw.held_out is None and bool(held.any()),
    )


def held_out(config: Mapping[str, Any], data: Path | None = None) -> tuple[Array, Array]:
    """The samples that a job with this configuration holds out, as its data have them.

    Unscaled, with the names of the classes or the numbers: what `load_model` takes and predicts.
    ``data``: where the data lie, None for builtin sets. Raises JobFault (also where ``config`` has
    neither ``seed`` nor ``job_id``, and the split rests on them), EnvironmentLacks.
    """
    job = job_spec(config)
    options = parse_options(job.hyperparameters, job.optimizer)
    split = load_split(job, data, options, layers.parse(job.layers))
    known = config.get("seed") is not None or config.get("job_id")
    if split.drawn and not known:
        raise JobFault(
            "the configuration has neither seed nor job_id, which say what was held out; take "
            'them from the job, or the seed from the model: int(load_model(…).about["seed"])'
        )
    if split.classes is None:
        return split.held_x, split.held_y
    return split.held_x, np.array(split.classes)[split.held_y]


def _shape(raw: Raw, wanted: Shape | None) -> Shape:
    """The definition's ``input_shape``, if it has as many values as a sample."""
    has = tuple(int(one) for one in raw.x.shape[1:])
    if wanted is not None and prod(wanted) != prod(has):
        raise JobFault(
            f"model_definition: input_shape {list(wanted)} has {prod(wanted)} values, and a "
            f"sample of the data has {prod(has)}: {list(has)}"
        )
    return wanted or has


def _classes(raw: Raw) -> tuple[Array, tuple[str | int, ...]]:
    if raw.y.ndim != 1:
        raise JobFault(f"the target has the shape {raw.y.shape}; a class is one value")
    if raw.classes is not None:
        return raw.y, raw.classes
    if raw.y.dtype.kind == "f":
        broken = raw.y[raw.y != np.round(raw.y)]
        if broken.size:
            raise JobFault(
                f"the target {raw.target} has numbers such as {broken[0]:g}, no classes; a loss "
                "such as mse, or hyperparameters.task regression, is for numbers"
            )
    values, y = np.unique(raw.y, return_inverse=True)
    if len(values) > max(1000, len(y) // 2):
        raise JobFault(f"the target {raw.target} has {len(values)} classes in {len(y)} samples")
    names = tuple(str(one) if values.dtype.kind == "U" else int(one) for one in values)
    return y.astype(np.int64), names


def _numbers(raw: Raw) -> Array:
    if raw.y.dtype.kind == "U":
        raise JobFault(
            f"the target {raw.target} has texts such as {str(raw.y[0])[:40]!r}, no numbers; "
            "loss cross_entropy, or hyperparameters.task classification, is for classes"
        )
    return raw.y.reshape(len(raw.y), -1)


def _held(classes: Array | None, count: int, share: float, seed: int) -> Array:
    """Which samples; of each class alike."""
    held = np.zeros(count, dtype=bool)
    if share == 0:
        return held
    random = np.random.Generator(np.random.PCG64([seed, _SPLIT]))
    groups = (
        [np.arange(count)]
        if classes is None
        else [np.nonzero(classes == one)[0] for one in np.unique(classes)]
    )
    for group in groups:
        held[random.permutation(group)[: int(len(group) * share + 0.5)]] = True
    if not held.any() or held.all():
        raise JobFault(
            f"validation_split {share:g} of {count} samples leaves none to train with, or none "
            "to hold out; choose another, or 0"
        )
    return held
