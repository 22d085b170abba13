"""Samples with their targets, and how they are split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from worker.runner.errors import JobError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """All samples of a job."""

    features: NDArray[np.float32]
    """(samples, …)"""
    targets: NDArray[Any]
    """(samples,): indexes into ``classes``, or numbers; (samples, outputs) for several numbers."""
    classes: tuple[str | int | float, ...] = ()
    """The labels, as they are called; () where the targets are numbers."""

    @property
    def is_classes(self) -> bool:
        return bool(self.classes)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample."""
        return tuple(self.features.shape[1:])


@dataclass(frozen=True, kw_only=True)
class Split:
    """Which samples are trained on, and which are held out to measure by."""

    train: NDArray[np.int64]
    held_out: NDArray[np.int64]


def split(dataset: Dataset, part: float, seed: int) -> Split:
    """Hold out ``part`` of the samples, each class in its proportion where that can be.

    The same data, part and seed give the same split. Raises JobError: nothing would be left.
    """
    import numpy as np
    from sklearn.model_selection import train_test_split

    samples = len(dataset.targets)
    held = round(samples * part)
    if not 1 <= held < samples:
        raise JobError(
            f"hyperparameters.validation_split: {part:g} of {samples} samples holds out {held}; "
            "at least one must be held out and one left to train on"
        )
    stratify = None
    if dataset.is_classes:
        counts = np.bincount(dataset.targets, minlength=len(dataset.classes))
        enough = counts.min() >= 2 and min(held, samples - held) >= len(dataset.classes)
        stratify = dataset.targets if enough else None
    train, held_out = train_test_split(
        np.arange(samples), test_size=held, random_state=seed, stratify=stratify
    )
    return Split(train=np.sort(train), held_out=np.sort(held_out))
