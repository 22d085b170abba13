"""Which definitions scikit-learn's perceptrons can express. Pure; errors name the layer.

They have dense layers with a bias, one activation for all hidden layers, and Dropout where
`masked` puts it in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from worker.runner.faults import JobFault
from worker.runner.model.layers import Layer
from worker.runner.model.shapes import Placed
from worker.runner.trainers.base import Plan

_ACTIVATIONS: Final = {"ReLU": "relu", "Tanh": "tanh", "Sigmoid": "logistic"}
_INSTEAD: Final = "PyTorch can: use an image or an interpreter that has it"


@dataclass(kw_only=True, slots=True)
class Perceptron:
    """A definition in scikit-learn's terms."""

    units: list[int] = field(default_factory=list)
    """Of the hidden layers."""
    activation: str = "identity"
    """Of all hidden layers."""
    dense: list[int] = field(default_factory=list)
    """The index in the definition of each dense layer, the output included."""
    rates: dict[int, float] = field(default_factory=dict)
    """Dropout rates of what goes into the n-th dense layer."""


def cannot(what: str, layer: Layer | None = None) -> JobFault:
    """The error for something that scikit-learn does not have."""
    where = f"{layer.at}: " if layer is not None else ""
    return JobFault(f"{where}scikit-learn cannot train {what}; {_INSTEAD}")


def express(plan: Plan) -> Perceptron:
    """The definition in scikit-learn's terms. Raises JobFault, which names what it cannot."""
    _check_options(plan)
    found = Perceptron()
    kinds: list[tuple[str, Layer]] = []
    groups = _by_dense(plan.model.trained)
    for number, group in enumerate(groups):
        dense, after = group[0].layer, group[1:]
        if not dense.options["use_bias"]:
            raise cannot("a Dense without bias", dense)
        found.dense.append(dense.index)
        last = number == len(groups) - 1
        kind = _after(after, found, number + 1, last)
        if not last:
            found.units.append(dense.options["units"])
            kinds.append((kind, after[0].layer if kind != "identity" else dense))
    for kind, layer in kinds[1:]:
        if kind != kinds[0][0]:
            raise cannot(
                f"hidden layers with different activations ({kinds[0][1].at} has "
                f"{_name(kinds[0][0])}, this one {_name(kind)})",
                layer,
            )
    if kinds:
        found.activation = kinds[0][0]
    found.rates.update(_before(plan.model.trained))
    return found


def _by_dense(placed: Sequence[Placed]) -> list[list[Placed]]:
    """A group for each dense layer, with what follows it."""
    groups: list[list[Placed]] = []
    for one in placed:
        layer = one.layer
        if layer.kind == "Dense":
            if len(one.input) != 1:
                raise cannot(f"a Dense on the shape {one.input}: put a Flatten before it", layer)
            groups.append([one])
        elif (layer.kind == "Flatten" and not groups) or (layer.kind == "Dropout" and not groups):
            continue
        elif groups and (layer.kind in ("Dropout", "Flatten") or layer.is_activation):
            groups[-1].append(one)
        else:
            raise cannot(f"a {layer.kind} here", layer)
    if not groups:
        raise JobFault("the definition has no Dense layer; scikit-learn trains such only")
    return groups


def _before(placed: Sequence[Placed]) -> dict[int, float]:
    """Dropout on the input itself."""
    keep = 1.0
    for one in placed:
        if one.layer.kind == "Dense":
            break
        if one.layer.kind == "Dropout":
            keep *= 1 - one.layer.options["rate"]
    return {0: 1 - keep} if keep < 1 else {}


def _after(after: Sequence[Placed], found: Perceptron, number: int, last: bool) -> str:
    """The activation of a dense layer; its Dropout goes into ``found``."""
    kind = "identity"
    for position, one in enumerate(after):
        layer = one.layer
        if layer.kind == "Flatten":
            continue
        if layer.kind == "Dropout":
            if position + 1 < len(after) and any(p.layer.is_activation for p in after[position:]):
                raise cannot("a Dropout before the activation: put it after", layer)
            keep = (1 - found.rates.get(number, 0.0)) * (1 - layer.options["rate"])
            if keep < 1:
                found.rates[number] = 1 - keep
            continue
        if kind != "identity":
            raise cannot("two activations after another", layer)
        if last:
            raise cannot(f"outputs with the activation {layer.kind}", layer)
        if layer.kind not in _ACTIVATIONS:
            raise cannot(f"the activation {layer.kind}", layer)
        kind = _ACTIVATIONS[layer.kind]
    return kind


def _name(kind: str) -> str:
    return next((name for name, own in _ACTIVATIONS.items() if own == kind), "none")


def _check_options(plan: Plan) -> None:
    optimizer = plan.optimizer
    if optimizer.kind not in ("adam", "sgd"):
        raise cannot(f"with the optimizer {optimizer.kind} (adam and sgd it has)")
    if optimizer.options["weight_decay"]:
        raise cannot(f"with {optimizer.kind}'s weight_decay")
    if plan.model.loss == "mae":
        raise cannot("with the loss mae (mse it has)")
    if plan.gradient_clip is not None:
        raise cannot("with gradient_clip")
    if plan.mixed_precision:
        raise cannot("with mixed_precision")
    if plan.device in ("cuda", "rocm"):
        raise cannot(f"on required_device {plan.device}")
