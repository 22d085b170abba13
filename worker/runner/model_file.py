"""The file of a trained model: weights, architecture, scaling and what its outputs mean.

`load_model` needs numpy alone, so a model can be used, and judged, apart from what trained it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from worker.runner import inference, tensorfile
from worker.runner.data.prepare import Scaling
from worker.runner.faults import JobFault
from worker.runner.lazy import Array, np
from worker.runner.model import layers
from worker.runner.model.head import CLASSES
from worker.runner.model.shapes import Placed, Shape, infer

FORMAT: Final = "cyxwiz-model"
VERSION: Final = "1"
NAME: Final = "model.safetensors"
_BATCH: Final = 1024
"""Samples at once, so that memory does not grow with their number."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedModel:
    """A model with everything that is needed to use it."""

    input_shape: Shape
    layers: tuple[Placed, ...]
    weights: Mapping[str, Array]
    """``layers.INDEX.NAME``: of the layer with that index in the definition."""
    loss: str
    classes: tuple[str | int, ...] | None
    """None: it predicts numbers."""
    input_scaling: Scaling | None = None
    target_scaling: Scaling | None = None
    about: Mapping[str, str] | None = None
    """Further metadata: trainer, seed, features, metrics…"""

    def outputs(self, x: Array) -> Array:
        """What the model says of samples as the data have them.

        Probabilities of the classes (samples, classes), with one unit that of the second class
        (samples, 1); or numbers (samples, targets). Raises ValueError: the shape does not fit.
        """
        x = self._shaped(x)
        made = [self._outputs(x[at : at + _BATCH]) for at in range(0, len(x), _BATCH)]
        return np.concatenate(made) if made else np.empty((0, *self.layers[-1].output))

    def predict(self, x: Array) -> Array:
        """The names of the classes (samples,), or numbers (samples, targets)."""
        outputs = self.outputs(x)
        if self.classes is None:
            return outputs
        return np.array(self.classes)[chosen(outputs)]

    def _shaped(self, x: Array) -> Array:
        x = np.asarray(x)
        if x.size != len(x) * int(np.prod(self.input_shape)):
            raise ValueError(f"samples of shape {self.input_shape} are needed, not {x.shape[1:]}")
        return x.reshape(len(x), *self.input_shape)

    def _outputs(self, x: Array) -> Array:
        if self.layers[0].layer.kind != "Embedding":
            x = self.input_scaling.apply(x) if self.input_scaling else x.astype(np.float32)
        made = inference.run(self.layers, self.weights, x)
        return self.target_scaling.undo(made) if self.target_scaling else made


def chosen(outputs: Array) -> Array:
    """The number of the likeliest class of each sample."""
    found: Array = outputs[:, 0] > 0.5 if outputs.shape[1] == 1 else outputs.argmax(axis=1)
    return found.astype(np.int64)


def save_model(path: Path, model: TrainedModel) -> str:
    """Write a model and return the file's SHA-256. Raises OSError."""
    metadata = {
        **(model.about or {}),
        "format": FORMAT,
        "version": VERSION,
        "architecture": json.dumps(
            {
                "input_shape": list(model.input_shape),
                "layers": [one.layer.described() for one in model.layers],
            }
        ),
        "loss": model.loss,
        "task": "classification" if model.loss in CLASSES else "regression",
        "classes": json.dumps(model.classes),
    }
    tensors = dict(model.weights)
    for name, scaling in (("input", model.input_scaling), ("target", model.target_scaling)):
        if scaling is not None:
            tensors[f"{name}.mean"], tensors[f"{name}.std"] = scaling.mean, scaling.std
    return tensorfile.write(path, tensors, metadata)


def load_model(path: Path | str) -> TrainedModel:
    """The model in a file. Raises ValueError: it has none, or one of another version."""
    try:
        tensors, metadata = tensorfile.read(Path(path))
    except tensorfile.NotWhole as error:
        raise ValueError(str(error)) from None
    if metadata.get("format") != FORMAT or metadata.get("version") != VERSION:
        raise ValueError(f"{path}: is no {FORMAT} of version {VERSION}")
    try:
        architecture = json.loads(metadata["architecture"])
        shape = tuple(architecture["input_shape"])
        placed = infer(layers.read(architecture["layers"]), shape)
        classes = json.loads(metadata["classes"])
    except (KeyError, TypeError, ValueError, JobFault) as error:
        raise ValueError(f"{path}: its architecture cannot be read: {error}") from None
    return TrainedModel(
        input_shape=shape,
        layers=placed,
        weights={k: v for k, v in tensors.items() if k.startswith("layers.")},
        loss=metadata["loss"],
        classes=None if classes is None else tuple(classes),
        input_scaling=_scaling(tensors, "input"),
        target_scaling=_scaling(tensors, "target"),
        about=metadata,
    )


def _scaling(tensors: Mapping[str, Any], name: str) -> Scaling | None:
    if f"{name}.mean" not in tensors:
        return None
    return Scaling(mean=tensors[f"{name}.mean"], std=tensors[f"{name}.std"])
