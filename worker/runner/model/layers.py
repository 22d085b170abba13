"""The layers of a definition, each with all of its parameters, checked.

Shapes are of one sample and have the channels last: an image is (height, width, channels), a
sequence (steps, features). An ``activation`` becomes a layer of its own, so a trainer sees
single things only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from worker.runner.faults import JobFault
from worker.runner.fields import REQUIRED, Check, Fields, number, one_of, sizes, truth, whole

_PADDING: Final = one_of("valid", "same")
_CONV: Final[dict[str, tuple[Check[Any], Any]]] = {
    "filters": (whole(), REQUIRED),
    "kernel_size": (sizes, REQUIRED),
    "strides": (sizes, (1,)),
    "padding": (_PADDING, "valid"),
    "dilation": (sizes, (1,)),
    "groups": (whole(), 1),
    "use_bias": (truth, True),
}
_POOL: Final[dict[str, tuple[Check[Any], Any]]] = {
    "pool_size": (sizes, (2,)),
    "strides": (sizes, None),
}
_RECURRENT: Final[dict[str, tuple[Check[Any], Any]]] = {
    "units": (whole(), REQUIRED),
    "return_sequences": (truth, False),
    "bidirectional": (truth, False),
}
_EPSILON: Final = (number(above=0), 1e-5)

ACTIVATIONS: Final[dict[str, dict[str, tuple[Check[Any], Any]]]] = {
    "ReLU": {},
    "LeakyReLU": {"negative_slope": (number(least=0), 0.01)},
    "ELU": {"alpha": (number(above=0), 1.0)},
    "GELU": {},
    "Swish": {},
    "Mish": {},
    "Sigmoid": {},
    "Tanh": {},
    "Softmax": {},
}
LAYERS: Final[dict[str, dict[str, tuple[Check[Any], Any]]]] = {
    "Dense": {"units": (whole(), REQUIRED), "use_bias": (truth, True)},
    "Conv1D": _CONV,
    "Conv2D": _CONV,
    "MaxPool": _POOL,
    "AvgPool": _POOL,
    "BatchNorm": {"momentum": (number(least=0, below=1), 0.9), "epsilon": _EPSILON},
    "LayerNorm": {"epsilon": _EPSILON},
    "Embedding": {"num_embeddings": (whole(), REQUIRED), "embedding_dim": (whole(), REQUIRED)},
    "LSTM": _RECURRENT,
    "GRU": _RECURRENT,
    "Dropout": {"rate": (number(least=0, below=1), 0.5)},
    "Flatten": {},
    **ACTIVATIONS,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """One thing that is done to what comes in."""

    index: int
    """Of the layer in the definition that it came from."""
    kind: str
    """A key of `LAYERS`."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """All of its parameters."""
    of: str = ""
    """The type of the layer whose ``activation`` it is; '' if it stands for itself."""

    @property
    def at(self) -> str:
        """How messages name it."""
        name = f"{self.of}, activation {self.kind}" if self.of else self.kind
        return f"layers[{self.index}] ({name})"

    @property
    def is_activation(self) -> bool:
        """Whether it has no weights and changes no shape."""
        return self.kind in ACTIVATIONS

    def wrong(self, what: str) -> JobFault:
        """The error that names this layer."""
        return JobFault(f"{self.at}: {what}")

    def described(self) -> dict[str, Any]:
        """As JSON, for the model's file; `read` is the way back."""
        return {"index": self.index, "type": self.kind, **self.options}


def parse(given: Sequence[Mapping[str, Any]]) -> tuple[Layer, ...]:
    """The layers of a definition. Raises JobFault, which names the layer by its index."""
    found: list[Layer] = []
    for index, one in enumerate(given):
        fields = Fields(f"layers[{index}]", {"type": one.get("type")})
        kind = fields.take("type", one_of(*LAYERS), REQUIRED)
        rest = {name: value for name, value in one.items() if name != "type"}
        fields = Fields(f"layers[{index}] ({kind})", rest)
        activation = None
        if kind not in ACTIVATIONS:
            activation = fields.take("activation", one_of(*ACTIVATIONS))
        found.append(Layer(index=index, kind=kind, options=_options(kind, fields)))
        if activation is not None:
            options = {name: default for name, (_, default) in ACTIVATIONS[activation].items()}
            found.append(Layer(index=index, kind=activation, options=options, of=kind))
    return tuple(found)


def read(described: Sequence[Mapping[str, Any]]) -> tuple[Layer, ...]:
    """What `Layer.described` gave. Raises JobFault: it is not such."""
    found = []
    for one in described:
        rest = dict(one)
        index, kind = rest.pop("index", None), rest.pop("type", None)
        if type(index) is not int or kind not in LAYERS:
            raise JobFault(f"the model's architecture has no layer {kind!r}")
        fields = Fields(f"layers[{index}] ({kind})", rest)
        found.append(Layer(index=index, kind=kind, options=_options(kind, fields)))
    return tuple(found)


def _options(kind: str, fields: Fields) -> dict[str, Any]:
    options = {
        name: fields.take(name, check, default) for name, (check, default) in LAYERS[kind].items()
    }
    fields.done()
    return options
