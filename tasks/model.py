"""A model as a list of layers, which the built-in runner builds.

Only what every trainer would refuse is refused here; whether shapes fit, and what a trainer can
express, is for the runner to say, by the layer's name. Names are written in the canonical way
(``dense`` becomes ``Dense``, ``cross-entropy`` becomes ``cross_entropy``), so that a runner
compares them as they are.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from tasks.jsonvalue import faults

ACTIVATIONS: Final = (
    "ReLU", "LeakyReLU", "ELU", "GELU", "Swish", "Mish", "Sigmoid", "Tanh", "Softmax",
)  # fmt: skip
LAYERS: Final = (
    "Dense", "Conv1D", "Conv2D", "MaxPool", "AvgPool", "BatchNorm", "LayerNorm", "Embedding",
    "LSTM", "GRU", "Dropout", "Flatten", *ACTIVATIONS,
)  # fmt: skip
OPTIMIZERS: Final = ("adam", "adamw", "sgd", "rmsprop")
LOSSES: Final = ("cross_entropy", "bce", "mse", "mae")

_MOST_LAYERS: Final = 1000
_POSITIVE: Final = frozenset(
    {"units", "filters", "kernel_size", "strides", "pool_size", "num_embeddings", "embedding_dim"}
)


def _fold(name: str) -> str:
    return name.replace("-", "").replace("_", "").replace(" ", "").lower()


def _one_of(kind: str, names: tuple[str, ...]) -> AfterValidator:
    """A validator that finds the canonical name, however it is written."""
    known = {_fold(name): name for name in names}

    def find(name: str) -> str:
        found = known.get(_fold(name))
        if found is None:
            raise ValueError(f"unknown {kind}; one of {', '.join(names)}")
        return found

    return AfterValidator(find)


def _parameters(extra: dict[str, Any] | None) -> None:
    for path, wrong in faults(extra or {}):
        raise ValueError(f"{path}: {wrong}" if path else wrong)


class Layer(BaseModel):
    """One layer: its ``type`` and its parameters, such as ``{"type": "Dense", "units": 64}``."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True, allow_inf_nan=False)

    type: Annotated[str, _one_of("layer", LAYERS)]
    activation: Annotated[str, _one_of("activation", ACTIVATIONS)] | None = None
    """What is applied to the layer's output; None for nothing."""

    @model_validator(mode="after")
    def _check_parameters(self) -> Layer:
        extra = self.model_extra or {}
        _parameters(extra)
        for name in _POSITIVE & extra.keys():
            value = extra[name]
            sizes = value if isinstance(value, list | tuple) and value else [value]
            if not all(type(size) is int and size >= 1 for size in sizes):
                raise ValueError(f"{name} is {value!r}; a whole number, at least 1, is needed")
        if self.type == "Dropout" and "rate" in extra:
            rate = extra["rate"]
            if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate < 1:
                raise ValueError(f"rate is {rate!r}; a number from 0 to below 1 is needed")
        return self


class Optimizer(BaseModel):
    """An optimizer with its parameters beside its ``type``."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True, allow_inf_nan=False)

    type: Annotated[str, _one_of("optimizer", OPTIMIZERS)]

    @model_validator(mode="after")
    def _check_parameters(self) -> Optimizer:
        _parameters(self.model_extra)
        return self


class ModelDefinition(BaseModel):
    """The model that the built-in runner builds and trains."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    layers: Annotated[tuple[Layer, ...], Field(strict=False, min_length=1, max_length=_MOST_LAYERS)]
    """From input to output."""
    optimizer: Annotated[str, _one_of("optimizer", OPTIMIZERS)] | Optimizer | None = None
    """A name, or an object with ``type`` and parameters; None: the trainer's choice."""
    loss: Annotated[str, _one_of("loss", LOSSES)] | None = None
    """None: what suits the data (cross-entropy for classes, mean squared error for numbers)."""
    input_shape: (
        Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(strict=False, max_length=8)] | None
    ) = None
    """Of one sample; None: as the data has it."""
    metrics: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=64)], ...],
        Field(strict=False, max_length=32),
    ] = ()
    """Beside the loss; those that the trainer does not know are an error of the runner."""
    name: Annotated[str, Field(max_length=128)] = ""
