"""Which shape each layer makes of what comes in. Pure; errors name the layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Final

from worker.runner.model.layers import Layer

Shape = tuple[int, ...]

_LAST: Final = "shapes have the channels last: (height, width, channels) or (steps, features)"


@dataclass(frozen=True, kw_only=True, slots=True)
class Placed:
    """A layer at its place in a model."""

    layer: Layer
    input: Shape
    """Of one sample."""
    output: Shape


def infer(layers: Sequence[Layer], input_shape: Shape) -> tuple[Placed, ...]:
    """The layers with their shapes. Raises JobFault, which names the layer that does not fit."""
    found: list[Placed] = []
    shape = input_shape
    for layer in layers:
        if layer.kind == "Embedding" and found:
            raise layer.wrong("takes whole numbers, so it can only be the first layer")
        output = _output(layer, shape)
        found.append(Placed(layer=layer, input=shape, output=output))
        shape = output
    return tuple(found)


def _output(layer: Layer, shape: Shape) -> Shape:
    options = layer.options
    match layer.kind:
        case "Dense":
            return (*shape[:-1], options["units"])
        case "Conv1D" | "Conv2D":
            return _convolved(layer, shape)
        case "MaxPool" | "AvgPool":
            return _pooled(layer, shape)
        case "Embedding":
            if len(shape) != 1:
                raise layer.wrong(f"needs a sequence of whole numbers (steps,), and gets {shape}")
            return (*shape, options["embedding_dim"])
        case "LSTM" | "GRU":
            if len(shape) != 2:
                raise layer.wrong(f"needs (steps, features), and gets {shape}; {_LAST}")
            width = options["units"] * (2 if options["bidirectional"] else 1)
            return (shape[0], width) if options["return_sequences"] else (width,)
        case "BatchNorm" if len(shape) > 3:
            raise layer.wrong(f"needs at most (height, width, channels), and gets {shape}")
        case "Flatten":
            return (prod(shape),)
        case _:
            return shape


def _convolved(layer: Layer, shape: Shape) -> Shape:
    rank = 1 if layer.kind == "Conv1D" else 2
    wanted = "(steps, channels)" if rank == 1 else "(height, width, channels)"
    if len(shape) != rank + 1:
        raise layer.wrong(f"needs {wanted}, and gets {shape}; set input_shape, or Flatten later")
    options = layer.options
    groups = options["groups"]
    if shape[-1] % groups or options["filters"] % groups:
        raise layer.wrong(
            f"groups is {groups}, and neither the {shape[-1]} channels that come in nor the "
            f"{options['filters']} filters may leave a rest when divided by it"
        )
    kernel, strides = spread(layer, "kernel_size", rank), spread(layer, "strides", rank)
    dilation = spread(layer, "dilation", rank)
    made = []
    for size, width, stride, gap in zip(shape, kernel, strides, dilation, strict=False):
        reach = (width - 1) * gap + 1
        if options["padding"] == "same":
            made.append(-(-size // stride))
        elif reach > size:
            raise layer.wrong(
                f"a kernel that reaches over {reach} does not fit into {size} of {shape}; "
                f"make it smaller, or set padding to same ({_LAST})"
            )
        else:
            made.append((size - reach) // stride + 1)
    return (*made, options["filters"])


def _pooled(layer: Layer, shape: Shape) -> Shape:
    if len(shape) not in (2, 3):
        raise layer.wrong(f"needs (steps, channels) or (height, width, channels), and gets {shape}")
    rank = len(shape) - 1
    pool, strides = pooling(layer, rank)
    for size, width in zip(shape, pool, strict=False):
        if width > size:
            raise layer.wrong(f"pool_size {width} does not fit into {size} of {shape}; {_LAST}")
    made = (
        (size - width) // stride + 1
        for size, width, stride in zip(shape, pool, strides, strict=False)
    )
    return (*made, shape[-1])


def pooling(layer: Layer, rank: int) -> tuple[Shape, Shape]:
    """Size and strides of a pooling layer in ``rank`` dimensions."""
    pool = spread(layer, "pool_size", rank)
    return pool, spread(layer, "strides", rank) if layer.options["strides"] else pool


def spread(layer: Layer, name: str, rank: int) -> Shape:
    """A parameter in ``rank`` dimensions: one number stands for all. Raises JobFault."""
    value: Any = layer.options[name]
    if len(value) == 1:
        return tuple(value) * rank
    if len(value) != rank:
        raise layer.wrong(f"{name} has {len(value)} numbers; one, or {rank}, are needed")
    return tuple(value)


def same_padding(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """How much is added before and after, so that ``padding: same`` covers ``size``."""
    reach = (kernel - 1) * dilation + 1
    total = max((-(-size // stride) - 1) * stride + reach - size, 0)
    return total // 2, total - total // 2
