"""Definitions: layers, their parameters, the shapes they make, the end of a model."""

from __future__ import annotations

from typing import Any

import pytest

from tasks import model as promised
from worker.runner.faults import JobFault
from worker.runner.model import layers
from worker.runner.model.head import decide_task, fit
from worker.runner.model.shapes import infer, same_padding

pytestmark = pytest.mark.unit

Given = list[dict[str, Any]]
CONV: dict[str, Any] = {"type": "Conv2D", "filters": 4, "kernel_size": 3}


def output(given: Given, shape: tuple[int, ...]) -> tuple[int, ...]:
    return infer(layers.parse(given), shape)[-1].output


def test_the_runner_knows_every_name_that_a_producer_may_write() -> None:
    assert set(layers.LAYERS) == set(promised.LAYERS)
    assert set(layers.ACTIVATIONS) == set(promised.ACTIVATIONS)


def test_an_activation_becomes_a_layer_of_its_own() -> None:
    dense, leaky = layers.parse([{"type": "dense", "units": 4, "activation": "leaky-relu"}])
    assert dense.kind == "Dense"
    assert dense.options == {"units": 4, "use_bias": True}
    assert (leaky.kind, leaky.index, leaky.options) == ("LeakyReLU", 0, {"negative_slope": 0.01})
    assert leaky.at == "layers[0] (Dense, activation LeakyReLU)"


def test_what_is_described_is_read_again() -> None:
    given = [CONV, {"type": "MaxPool"}, {"type": "LSTM", "units": 3}, {"type": "ELU", "alpha": 2}]
    found = layers.parse(given)
    again = layers.read([one.described() for one in found])
    assert [(one.kind, one.options) for one in again] == [(o.kind, o.options) for o in found]


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        ({}, "layers[0]: type is missing; one of Dense, "),
        ({"type": "Dens"}, "layers[0]: type is 'Dens'; one of Dense, "),
        ({"type": "Dense"}, "layers[0] (Dense): units is missing; a whole number from 1 is"),
        ({"type": "Dense", "units": 2.5}, "layers[0] (Dense): units is 2.5; a whole number"),
        ({"type": "Dense", "units": True}, "units is True; a whole number"),
        (
            {"type": "Dense", "units": 1, "size": 2},
            "size is unknown here; known: activation, units",
        ),
        ({"type": "Dense", "units": 1, "activation": "x"}, "activation is 'x'; one of ReLU, "),
        ({"type": "ReLU", "activation": "ReLU"}, "layers[0] (ReLU): activation is unknown here"),
        ({"type": "Dropout", "rate": 1}, "rate is 1; a number at least 0 and below 1 is needed"),
        ({"type": "Dropout", "rate": float("nan")}, "rate is nan; a number"),
        ({**CONV, "padding": "full"}, "padding is 'full'; one of valid, same"),
        ({**CONV, "kernel_size": [3, 0]}, "kernel_size is [3, 0]; a whole number from 1, or"),
    ],
)
def test_a_wrong_layer_is_named(layer: dict[str, Any], text: str) -> None:
    with pytest.raises(JobFault) as caught:
        layers.parse([layer])
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("given", "shape", "expected"),
    [
        ([{"type": "Dense", "units": 3}], (5,), (3,)),
        ([{"type": "Dense", "units": 3}], (7, 5), (7, 3)),
        ([CONV], (8, 9, 1), (6, 7, 4)),
        ([{**CONV, "strides": [2, 1], "padding": "same"}], (9, 8, 1), (5, 8, 4)),
        ([{**CONV, "dilation": 2}], (8, 8, 2), (4, 4, 4)),
        ([{"type": "Conv1D", "filters": 2, "kernel_size": 3, "strides": 2}], (8, 3), (3, 2)),
        ([{"type": "MaxPool"}], (9, 8, 3), (4, 4, 3)),
        ([{"type": "AvgPool", "pool_size": 3, "strides": 1}], (9, 3), (7, 3)),
        ([{"type": "Flatten"}], (2, 3, 4), (24,)),
        ([{"type": "Embedding", "num_embeddings": 9, "embedding_dim": 4}], (6,), (6, 4)),
        ([{"type": "LSTM", "units": 4}], (7, 3), (4,)),
        ([{"type": "GRU", "units": 4, "bidirectional": True}], (7, 3), (8,)),
        ([{"type": "GRU", "units": 4, "return_sequences": True}], (7, 3), (7, 4)),
        ([{"type": "BatchNorm"}, {"type": "GELU"}, {"type": "LayerNorm"}], (4, 2), (4, 2)),
    ],
)
def test_shapes(given: Given, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    assert output(given, shape) == expected


@pytest.mark.parametrize(
    ("given", "shape", "texts"),
    [
        ([CONV], (64,), ["layers[0] (Conv2D)", "(height, width, channels)", "input_shape"]),
        ([{"type": "ReLU"}, CONV], (1, 8, 8), ["layers[1] (Conv2D)", "channels last"]),
        ([{**CONV, "groups": 3}], (8, 8, 3), ["groups is 3", "4 filters"]),
        ([{**CONV, "strides": [1, 1, 1]}], (8, 8, 3), ["strides has 3 numbers; one, or 2,"]),
        ([{"type": "MaxPool", "pool_size": 3}], (2, 2, 1), ["layers[0] (MaxPool): pool_size 3"]),
        ([{"type": "AvgPool"}], (4,), ["(steps, channels) or (height, width, channels)"]),
        ([{"type": "LSTM", "units": 2}], (4,), ["layers[0] (LSTM): needs (steps, features)"]),
        (
            [{"type": "ReLU"}, {"type": "Embedding", "num_embeddings": 2, "embedding_dim": 2}],
            (4,),
            ["layers[1] (Embedding)", "first layer"],
        ),
        ([{"type": "BatchNorm"}], (2, 2, 2, 2), ["layers[0] (BatchNorm)"]),
    ],
)
def test_what_does_not_fit_is_named(given: Given, shape: tuple[int, ...], texts: list[str]) -> None:
    with pytest.raises(JobFault) as caught:
        output(given, shape)
    for text in texts:
        assert text in str(caught.value)


def test_same_padding_covers_every_sample() -> None:
    assert same_padding(5, 3, 1, 1) == (1, 1)
    assert same_padding(5, 4, 2, 1) == (1, 2)
    assert same_padding(6, 1, 3, 1) == (0, 0)


def fitted(given: Given, *, classes: int | None = 3, loss: str | None = None) -> Any:
    return fit(layers.parse(given), (5,), loss=loss, classes=classes, targets=2)


def test_the_function_inside_the_loss_is_not_trained_twice() -> None:
    for given in (
        [{"type": "Dense", "units": 3}],
        [{"type": "Dense", "units": 3}, {"type": "Softmax"}],
    ):
        model = fitted(given)
        assert model.loss == "cross_entropy"
        assert [one.layer.kind for one in model.layers] == ["Dense", "Softmax"]
        assert [one.layer.kind for one in model.trained] == ["Dense"]
    binary = fitted([{"type": "Dense", "units": 1, "activation": "sigmoid"}], classes=2)
    assert (binary.loss, len(binary.trained)) == ("bce", 1)
    numbers = fitted([{"type": "Dense", "units": 2, "activation": "tanh"}], classes=None)
    assert (numbers.loss, len(numbers.trained), numbers.linear_end) == ("mse", 2, False)


@pytest.mark.parametrize(
    ("given", "classes", "loss", "text"),
    [
        (
            [{"type": "Dense", "units": 4}],
            3,
            None,
            "layers[0] (Dense): the model ends with the shape (4,)",
        ),
        (
            [{"type": "Dense", "units": 3, "activation": "ReLU"}],
            3,
            None,
            "ends with Softmax, or without",
        ),
        (
            [{"type": "Dense", "units": 1}],
            3,
            "bce",
            "loss bce is for 2 classes, and the data have 3",
        ),
        (
            [{"type": "Dense", "units": 3}],
            3,
            "mse",
            "loss mse does not suit the target, which is 3 classes",
        ),
        (
            [{"type": "Dense", "units": 2}],
            None,
            "bce",
            "does not suit the target, which is numbers",
        ),
        (
            [{"type": "Dense", "units": 3}, {"type": "Dropout"}],
            3,
            None,
            "layers[1] (Dropout): would drop",
        ),
        ([{"type": "Dense", "units": 1}], 1, None, "the data have 1 class; at least 2"),
    ],
)
def test_an_end_that_does_not_fit_is_named(
    given: Given, classes: int | None, loss: str | None, text: str
) -> None:
    with pytest.raises(JobFault) as caught:
        fitted(given, classes=classes, loss=loss)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("said", "loss", "suggested", "last", "expected"),
    [
        ("regression", None, "classification", {"type": "Dense", "units": 3}, "regression"),
        (None, "mae", None, {"type": "Dense", "units": 3}, "regression"),
        (None, None, "classification", {"type": "Dense", "units": 1}, "classification"),
        (None, None, None, {"type": "Softmax"}, "classification"),
        (None, None, None, {"type": "Dense", "units": 3}, "classification"),
        (None, None, None, {"type": "Dense", "units": 1}, "regression"),
    ],
)
def test_the_task_follows_from_what_is_said(
    said: str | None, loss: str | None, suggested: str | None, last: dict[str, Any], expected: str
) -> None:
    found = decide_task(said=said, loss=loss, suggested=suggested, layers=layers.parse([last]))
    assert found == expected


def test_a_task_that_contradicts_the_loss_is_refused() -> None:
    with pytest.raises(JobFault, match="loss mse is for regression"):
        decide_task(
            said="classification",
            loss="mse",
            suggested=None,
            layers=layers.parse([{"type": "ReLU"}]),
        )
