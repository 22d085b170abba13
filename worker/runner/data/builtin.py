"""Data sets that scikit-learn ships: nothing is fetched."""

from __future__ import annotations

from typing import Final

from worker.runner.data.raw import Raw
from worker.runner.faults import JobFault
from worker.runner.lazy import need, np

_SETS: Final = {
    "digits": "classification",
    "iris": "classification",
    "wine": "classification",
    "breast_cancer": "classification",
    "diabetes": "regression",
}


def load(name: str) -> Raw:
    """The data set of that name. Raises JobFault, EnvironmentLacks."""
    known = {one.replace("_", ""): one for one in _SETS}
    found = known.get(name.replace("_", "").replace("-", ""))
    if found is None:
        raise JobFault(f"dataset_uri: builtin:{name} is unknown; one of {', '.join(_SETS)}")
    datasets = need("sklearn.datasets", package="scikit-learn", why=f"builtin:{name}")
    bunch = getattr(datasets, f"load_{found}")()
    classes = _SETS[found] == "classification"
    return Raw(
        x=np.asarray(bunch.data, dtype=np.float32),
        y=np.asarray(bunch.target, dtype=np.int64 if classes else np.float32),
        suggested=_SETS[found],
        classes=tuple(np.asarray(bunch.target_names).tolist()) if classes else None,
        features=tuple(str(one) for one in bunch.feature_names),
        target="target",
    )
