"""LSTM and GRU with numpy alone, with PyTorch's equations and weights."""

from __future__ import annotations

from collections.abc import Mapping

from worker.runner.lazy import Array, np
from worker.runner.model.layers import Layer


def recur(layer: Layer, weights: Mapping[str, Array], x: Array) -> Array:
    """What the layer makes of ``x`` (samples, steps, features).

    All steps with ``return_sequences``, else the last of each direction.
    """
    made = [_one_way(layer, weights, x, "")]
    if layer.options["bidirectional"]:
        made.append(_one_way(layer, weights, x[:, ::-1], "_reverse")[:, ::-1])
    if layer.options["return_sequences"]:
        return np.concatenate(made, axis=-1)
    ends = [way[:, 0] if index else way[:, -1] for index, way in enumerate(made)]
    return np.concatenate(ends, axis=-1)


def _one_way(layer: Layer, weights: Mapping[str, Array], x: Array, way: str) -> Array:
    units = layer.options["units"]
    inward = x @ weights[f"weight_ih_l0{way}"].T + weights[f"bias_ih_l0{way}"]
    across, bias = weights[f"weight_hh_l0{way}"].T, weights[f"bias_hh_l0{way}"]
    hidden = np.zeros((len(x), units), dtype=x.dtype)
    cell = np.zeros_like(hidden)
    made = np.empty((len(x), x.shape[1], units), dtype=x.dtype)
    for step in range(x.shape[1]):
        before = hidden @ across + bias
        if layer.kind == "LSTM":
            hidden, cell = _lstm(inward[:, step] + before, cell)
        else:
            hidden = _gru(inward[:, step], before, hidden)
        made[:, step] = hidden
    return made


def _lstm(gates: Array, cell: Array) -> tuple[Array, Array]:
    let_in, forget, new, let_out = np.split(gates, 4, axis=-1)
    cell = _sigmoid(forget) * cell + _sigmoid(let_in) * np.tanh(new)
    return _sigmoid(let_out) * np.tanh(cell), cell


def _gru(inward: Array, before: Array, hidden: Array) -> Array:
    reset_in, update_in, new_in = np.split(inward, 3, axis=-1)
    reset_before, update_before, new_before = np.split(before, 3, axis=-1)
    update = _sigmoid(update_in + update_before)
    new = np.tanh(new_in + _sigmoid(reset_in + reset_before) * new_before)
    made: Array = (1 - update) * new + update * hidden
    return made


def _sigmoid(x: Array) -> Array:
    made: Array = (1 + np.tanh(x / 2)) / 2  # does not overflow
    return made
