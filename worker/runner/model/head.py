"""What ends a model: whether its outputs fit the data, and which loss they are trained with.

Cross-entropy is trained on what comes before the Softmax, binary cross-entropy on what comes
before the Sigmoid: with the function inside the loss nothing overflows. The model ends with the
function all the same, and where the definition leaves it out it is added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from worker.runner.faults import JobFault
from worker.runner.model.layers import Layer
from worker.runner.model.shapes import Placed, Shape, infer

CLASSES: Final = ("cross_entropy", "bce")
_ENDS: Final = {"cross_entropy": "Softmax", "bce": "Sigmoid"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A definition that fits its data."""

    input_shape: Shape
    layers: tuple[Placed, ...]
    """From the data to the prediction."""
    loss: str
    outputs: int
    """Units at the end."""

    @property
    def trained(self) -> tuple[Placed, ...]:
        """The layers without the function that the loss has inside."""
        return self.layers[:-1] if self.loss in _ENDS else self.layers

    @property
    def linear_end(self) -> bool:
        """Whether the outputs may be any number."""
        return not self.layers[-1].layer.is_activation


def decide_task(
    *, said: str | None, loss: str | None, suggested: str | None, layers: Sequence[Layer]
) -> str:
    """``classification`` or ``regression``. ``suggested``: by the data, None if they leave it open.

    Raises JobFault: two of them contradict each other.
    """
    by_loss = None if loss is None else "classification" if loss in CLASSES else "regression"
    if said is not None and by_loss is not None and said != by_loss:
        raise JobFault(f"model_definition: loss {loss} is for {by_loss}, and the task is {said}")
    if said or by_loss or suggested:
        return said or by_loss or suggested or ""
    last = layers[-1].kind
    if last in ("Softmax", "Sigmoid"):
        return "classification"
    units = next((one.options["units"] for one in reversed(layers) if one.kind == "Dense"), 1)
    return "classification" if units > 1 else "regression"


def fit(
    layers: Sequence[Layer],
    input_shape: Shape,
    *,
    loss: str | None,
    classes: int | None,
    targets: int,
) -> Model:
    """The model for data with so many classes (None: numbers) or targets. Raises JobFault."""
    if classes is not None and classes < 2:
        raise JobFault(f"the data have {classes} class; at least 2 are needed")
    if loss is None:
        one_unit = layers[-1].kind == "Sigmoid"
        loss = "mse" if classes is None else "bce" if classes == 2 and one_unit else "cross_entropy"
    if (loss in CLASSES) != (classes is not None):
        what = "numbers" if classes is None else f"{classes} classes"
        raise JobFault(f"model_definition: loss {loss} does not suit the target, which is {what}")
    layers = _ended(layers, loss)
    placed = infer(layers, input_shape)
    wanted = _wanted(loss, classes, targets)
    if placed[-1].output != (wanted,):
        last = next((one for one in reversed(placed) if not one.layer.is_activation), placed[-1])
        has = f"{classes} classes" if classes is not None else f"{targets} target(s)"
        hint = "" if len(placed[-1].output) == 1 else "; a Flatten before the last Dense is missing"
        raise last.layer.wrong(
            f"the model ends with the shape {placed[-1].output}, and the data have {has}: with "
            f"loss {loss} the shape ({wanted},) is needed{hint}"
        )
    return Model(input_shape=input_shape, layers=placed, loss=loss, outputs=wanted)


def _ended(layers: Sequence[Layer], loss: str) -> tuple[Layer, ...]:
    last = layers[-1]
    end = _ENDS.get(loss)
    if last.kind == "Dropout":
        raise last.wrong("would drop predictions; nothing but an activation may follow the output")
    if end is None:
        return tuple(layers)
    if last.kind == end:
        return tuple(layers)
    if last.is_activation:
        raise last.wrong(f"with loss {loss} the model ends with {end}, or without an activation")
    return (*layers, Layer(index=last.index, kind=end, of=last.kind))


def _wanted(loss: str, classes: int | None, targets: int) -> int:
    if loss == "bce":
        if classes != 2:
            raise JobFault(
                f"model_definition: loss bce is for 2 classes, and the data have {classes}; "
                "cross_entropy is for more"
            )
        return 1
    return targets if classes is None else classes
