"""The job of ``cyxwiz demo``: the same as ``examples/jobs/digits.json``, which is not installed."""

from __future__ import annotations

from typing import Any, Final

DIGITS: Final[dict[str, Any]] = {
    "model_definition": {
        "layers": [
            {"type": "Dense", "units": 128, "activation": "relu"},
            {"type": "Dropout", "rate": 0.1},
            {"type": "Dense", "units": 10, "activation": "softmax"},
        ],
        "optimizer": "adam",
        "loss": "cross_entropy",
    },
    "hyperparameters": {"learning_rate": 0.001},
    "dataset_uri": "builtin:digits",
    "epochs": 20,
    "batch_size": 32,
    "seed": 7,
    "labels": {"example": "digits"},
}
