"""A model's layers with numpy alone: what a saved model is run with, apart from its trainer.

Weights have PyTorch's names and layouts (`docs/model-definition.md`), data the channels last.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from worker.runner.lazy import Array, np
from worker.runner.model.layers import Layer
from worker.runner.model.shapes import Placed, pooling, same_padding, spread
from worker.runner.recurrent import recur

Weights = Mapping[str, Array]


def run(layers: Sequence[Placed], weights: Weights, x: Array) -> Array:
    """What the model makes of ``x`` (samples, …)."""
    for placed in layers:
        prefix = f"layers.{placed.layer.index}."
        own = {
            name.removeprefix(prefix): value
            for name, value in weights.items()
            if name.startswith(prefix)
        }
        x = _apply(placed, own, x)
    return x


def _apply(placed: Placed, weights: Weights, x: Array) -> Array:
    layer = placed.layer
    match layer.kind:
        case "Dense":
            return _plus_bias(x @ weights["weight"].T, weights)
        case "Conv1D" | "Conv2D":
            return _convolve(layer, weights, x)
        case "MaxPool" | "AvgPool":
            return _pool(layer, x)
        case "BatchNorm":
            scale = np.sqrt(weights["running_var"] + layer.options["epsilon"])
            x = (x - weights["running_mean"]) / scale
            return x * weights["weight"] + weights["bias"]
        case "LayerNorm":
            mean, variance = x.mean(axis=-1, keepdims=True), x.var(axis=-1, keepdims=True)
            x = (x - mean) / np.sqrt(variance + layer.options["epsilon"])
            return x * weights["weight"] + weights["bias"]
        case "Embedding":
            return weights["weight"][x.astype(np.int64)]
        case "LSTM" | "GRU":
            return recur(layer, weights, x)
        case "Dropout":
            return x
        case "Flatten":
            return x.reshape(len(x), -1)
        case _:
            return activate(layer, x)


def activate(layer: Layer, x: Array) -> Array:
    """An activation."""
    made: Array
    match layer.kind:
        case "ReLU":
            made = np.maximum(x, 0)
        case "LeakyReLU":
            made = np.where(x > 0, x, x * np.float32(layer.options["negative_slope"]))
        case "ELU":
            made = np.where(x > 0, x, layer.options["alpha"] * np.expm1(np.minimum(x, 0)))
        case "GELU":
            erf: Array = np.asarray(np.frompyfunc(math.erf, 1, 1)(x / math.sqrt(2)))
            made = x * (1 + erf.astype(x.dtype)) / 2
        case "Swish":
            made = x * sigmoid(x)
        case "Mish":
            made = x * np.tanh(np.logaddexp(x, 0))
        case "Sigmoid":
            made = sigmoid(x)
        case "Tanh":
            made = np.tanh(x)
        case "Softmax":
            raised = np.exp(x - x.max(axis=-1, keepdims=True))
            made = raised / raised.sum(axis=-1, keepdims=True)
        case _:
            raise layer.wrong("is no activation")
    return made


def sigmoid(x: Array) -> Array:
    """Without overflow."""
    made: Array = (1 + np.tanh(x / 2)) / 2
    return made


def _plus_bias(x: Array, weights: Weights) -> Array:
    return x + weights["bias"] if "bias" in weights else x


def _convolve(layer: Layer, weights: Weights, x: Array) -> Array:
    rank = 1 if layer.kind == "Conv1D" else 2
    kernel, strides = spread(layer, "kernel_size", rank), spread(layer, "strides", rank)
    dilation = spread(layer, "dilation", rank)
    if layer.options["padding"] == "same":
        edges = [
            same_padding(*one) for one in zip(x.shape[1:], kernel, strides, dilation, strict=False)
        ]
        x = np.pad(x, [(0, 0), *edges, (0, 0)])
    reach = tuple((width - 1) * gap + 1 for width, gap in zip(kernel, dilation, strict=True))
    axes = tuple(range(1, rank + 1))
    windows = np.lib.stride_tricks.sliding_window_view(x, reach, axis=axes)
    # (samples, …, channels, …kernel): of the windows every stride-th, of each every dilation-th
    every = tuple(slice(None, None, step) for step in strides)
    inside = tuple(slice(None, None, gap) for gap in dilation)
    windows = windows[(slice(None), *every, slice(None), *inside)]
    weight, groups = weights["weight"], layer.options["groups"]  # (out, in / groups, …kernel)
    parts = [
        np.tensordot(part, kernel_part, (range(rank + 1, windows.ndim), range(1, weight.ndim)))
        for part, kernel_part in zip(
            np.split(windows, groups, axis=rank + 1), np.split(weight, groups), strict=True
        )
    ]
    return _plus_bias(np.concatenate(parts, axis=-1), weights)


def _pool(layer: Layer, x: Array) -> Array:
    rank = x.ndim - 2
    pool, strides = pooling(layer, rank)
    axes = tuple(range(1, rank + 1))
    windows = np.lib.stride_tricks.sliding_window_view(x, pool, axis=axes)
    windows = windows[(slice(None), *(slice(None, None, step) for step in strides))]
    last = tuple(range(windows.ndim - rank, windows.ndim))
    made: Array = windows.max(axis=last) if layer.kind == "MaxPool" else windows.mean(axis=last)
    return made
