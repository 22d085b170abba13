"""Layers in PyTorch. Data have the channels last everywhere, as the definition says.

A convolution sees a view with the channels where PyTorch has them; that costs no copy, as the
memory is in PyTorch's own channels-last order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from worker.runner.lazy import torch
from worker.runner.model.layers import Layer
from worker.runner.model.shapes import Placed, pooling, same_padding, spread

Tensor = Any
"""``torch.Tensor``, which is not there when this module is imported."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """A layer that can be called."""

    layer: Layer
    call: Callable[[Tensor], Tensor]
    module: Any = None
    """What has its weights, and knows whether it is trained; None: it has none."""


def build(placed: Placed) -> Piece:
    """The layer, with weights as PyTorch makes them."""
    layer, nn = placed.layer, torch.nn
    options, width = layer.options, placed.input[-1]
    match layer.kind:
        case "Dense":
            module = nn.Linear(width, options["units"], bias=options["use_bias"])
        case "Conv1D" | "Conv2D":
            return _convolution(placed)
        case "MaxPool" | "AvgPool":
            return Piece(layer=layer, call=_pool(placed))
        case "BatchNorm":
            kind = nn.BatchNorm2d if len(placed.input) == 3 else nn.BatchNorm1d
            module = kind(width, eps=options["epsilon"], momentum=1 - options["momentum"])
            return Piece(layer=layer, call=_channels_first(module), module=module)
        case "LayerNorm":
            module = nn.LayerNorm(width, eps=options["epsilon"])
        case "Embedding":
            module = nn.Embedding(options["num_embeddings"], options["embedding_dim"])
        case "LSTM" | "GRU":
            return _recurrent(placed)
        case "Dropout":
            module = nn.Dropout(options["rate"])
        case "Flatten":
            return Piece(layer=layer, call=lambda x: x.flatten(1))
        case _:
            return Piece(layer=layer, call=_activation(layer))
    return Piece(layer=layer, call=module, module=module)


def _activation(layer: Layer) -> Callable[[Tensor], Tensor]:
    functions, options = torch.nn.functional, layer.options
    match layer.kind:
        case "ReLU":
            return functions.relu  # type: ignore[no-any-return]  # PyTorch is untyped here
        case "LeakyReLU":
            return lambda x: functions.leaky_relu(x, options["negative_slope"])
        case "ELU":
            return lambda x: functions.elu(x, options["alpha"])
        case "GELU":
            return functions.gelu  # type: ignore[no-any-return]  # as above
        case "Swish":
            return functions.silu  # type: ignore[no-any-return]  # as above
        case "Mish":
            return functions.mish  # type: ignore[no-any-return]  # as above
        case "Sigmoid":
            return torch.sigmoid  # type: ignore[no-any-return]  # as above
        case "Tanh":
            return torch.tanh  # type: ignore[no-any-return]  # as above
        case "Softmax":
            return lambda x: torch.softmax(x, dim=-1)
        case _:
            raise layer.wrong("PyTorch trains no such layer")


def _channels_first(call: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda x: call(x.movedim(-1, 1)).movedim(1, -1)


def _convolution(placed: Placed) -> Piece:
    layer, options = placed.layer, placed.layer.options
    rank = 1 if layer.kind == "Conv1D" else 2
    kernel, strides = spread(layer, "kernel_size", rank), spread(layer, "strides", rank)
    dilation = spread(layer, "dilation", rank)
    module = (torch.nn.Conv1d if rank == 1 else torch.nn.Conv2d)(
        placed.input[-1],
        options["filters"],
        kernel,
        stride=strides,
        dilation=dilation,
        groups=options["groups"],
        bias=options["use_bias"],
    )
    edges: list[int] = []
    if options["padding"] == "same":
        sizes = zip(placed.input, kernel, strides, dilation, strict=False)
        # PyTorch wants the last dimension first
        edges = [edge for one in reversed([same_padding(*size) for size in sizes]) for edge in one]
    if not any(edges):
        return Piece(layer=layer, call=_channels_first(module), module=module)

    def padded(x: Tensor) -> Tensor:
        return module(torch.nn.functional.pad(x, edges))

    return Piece(layer=layer, call=_channels_first(padded), module=module)


def _pool(placed: Placed) -> Callable[[Tensor], Tensor]:
    rank = len(placed.input) - 1
    size, strides = pooling(placed.layer, rank)
    kind = "max" if placed.layer.kind == "MaxPool" else "avg"
    function = getattr(torch.nn.functional, f"{kind}_pool{rank}d")
    return _channels_first(lambda x: function(x, size, strides))


def _recurrent(placed: Placed) -> Piece:
    layer, options = placed.layer, placed.layer.options
    units = options["units"]
    module = getattr(torch.nn, layer.kind)(
        placed.input[-1], units, batch_first=True, bidirectional=options["bidirectional"]
    )

    def call(x: Tensor) -> Tensor:
        made, _ = module(x)
        if options["return_sequences"]:
            return made
        forth = made[:, -1, :units]
        if not options["bidirectional"]:
            return forth
        return torch.cat([forth, made[:, 0, units:]], dim=-1)  # it ends where the other begins

    return Piece(layer=layer, call=call, module=module)
