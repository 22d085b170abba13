"""Data sets that scikit-learn ships: no network, no files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from worker.runner.data.dataset import Dataset
from worker.runner.errors import JobError

NAMES = ("breast_cancer", "diabetes", "digits", "iris", "wine")


def load(name: str) -> Dataset:
    """The data set ``builtin:name``. Raises JobError: there is none of that name.

    ``digits`` has samples of shape (1, 8, 8), pixels from 0 to 1; the others are flat.
    """
    if name not in NAMES:
        raise JobError(
            f"dataset_uri: builtin:{name} is unknown; there are "
            + ", ".join(f"builtin:{one}" for one in NAMES)
        )
    import numpy as np
    from sklearn import datasets

    loader: Callable[[], Any] = getattr(datasets, f"load_{name}")
    found = loader()
    features = np.asarray(found.data, dtype=np.float32)
    if name == "diabetes":
        return Dataset(features=features, targets=np.asarray(found.target, dtype=np.float32))
    if name == "digits":
        features = (features / 16).reshape(-1, 1, 8, 8)
    names = getattr(found, "target_names", np.unique(found.target))
    classes = tuple(int(one) if name == "digits" else str(one) for one in names)
    return Dataset(features=features, targets=np.asarray(found.target), classes=classes)
