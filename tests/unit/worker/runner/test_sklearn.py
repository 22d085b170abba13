"""What scikit-learn can express, its gradients with Dropout, and metrics."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import f1_score, log_loss, precision_score, r2_score, recall_score

from worker.runner.data.prepare import Prepared, Scaling
from worker.runner.faults import JobFault
from worker.runner.model import layers
from worker.runner.model.head import fit
from worker.runner.options import parse
from worker.runner.scores import loss_of, metric_names, scores
from worker.runner.trainers.base import Plan
from worker.runner.trainers.masked import masked
from worker.runner.trainers.perceptron import express
from worker.runner.trainers.sklearn import SklearnTrainer

pytestmark = pytest.mark.unit

Given = list[dict[str, Any]]
RANDOM = np.random.default_rng(0)


def plan(
    given: Given, *, optimizer: Any = "adam", loss: str | None = None, classes: int | None = 3
) -> Plan:
    model = fit(layers.parse(given), (4,), loss=loss, classes=classes, targets=2)
    x = RANDOM.normal(size=(20, 4)).astype(np.float32)
    y = x[:, :2] if classes is None else RANDOM.integers(0, classes, 20)
    data = Prepared(
        x=x, y=y, held_x=x[:0], held_y=y[:0], input_scaling=None, target_scaling=None, digest=""
    )
    return Plan(
        model=model,
        data=data,
        classes=classes,
        optimizer=parse({}, optimizer).optimizer,
        batch_size=5,
        seed=3,
        repeatable=True,
        gradient_clip=None,
        mixed_precision=False,
        device="any",
    )


def dense(units: int, activation: str | None = None, **more: Any) -> dict[str, Any]:
    return {"type": "Dense", "units": units, **more} | (
        {"activation": activation} if activation else {}
    )


END = dense(3)


def test_a_perceptron_in_scikit_learns_terms() -> None:
    found = express(
        plan(
            [
                {"type": "Flatten"},
                {"type": "Dropout", "rate": 0.1},
                dense(8, "tanh"),
                {"type": "Dropout", "rate": 0.5},
                {"type": "Dropout", "rate": 0.2},
                dense(6, "tanh"),
                END,
            ]
        )
    )
    assert found.units == [8, 6]
    assert found.activation == "tanh"
    assert found.dense == [2, 5, 6]
    assert found.rates == pytest.approx({0: 0.1, 1: 0.6})


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ([dense(4, "ReLU"), dense(4, "Tanh"), END], "layers[1] (Dense, activation Tanh): scikit-l"),
        ([dense(4, "GELU"), END], "layers[0] (Dense, activation GELU): scikit-learn cannot train"),
        (
            [dense(4, use_bias=False), END],
            "layers[0] (Dense): scikit-learn cannot train a Dense wi",
        ),
        ([dense(4), {"type": "BatchNorm"}, END], "layers[1] (BatchNorm): scikit-learn cannot"),
        ([{"type": "LayerNorm"}, END], "layers[0] (LayerNorm): scikit-learn cannot"),
        ([dense(4, "ReLU"), dense(4), END], "this one none"),
        ([dense(4, "ReLU"), {"type": "ReLU"}, END], "layers[1] (ReLU)"),
        ([dense(4), {"type": "Dropout"}, {"type": "ReLU"}, END], "layers[1] (Dropout)"),
        ([{"type": "Softmax"}], "no Dense layer"),
    ],
)
def test_what_it_cannot_train_is_named(given: Given, text: str) -> None:
    model = plan([END]).model
    placed = fit(layers.parse(given), (3,), loss=None, classes=3, targets=1).layers
    with pytest.raises(JobFault) as caught:
        express(replace(plan([END]), model=replace(model, layers=placed)))
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"optimizer": parse({}, "adamw").optimizer}, "the optimizer adamw (adam and sgd it has)"),
        (
            {"optimizer": parse({}, {"type": "adam", "weight_decay": 0.1}).optimizer},
            "adam's weight_decay",
        ),
        ({"gradient_clip": 1.0}, "gradient_clip"),
        ({"mixed_precision": True}, "mixed_precision"),
        ({"device": "cuda"}, "required_device cuda"),
    ],
)
def test_an_option_it_does_not_have_is_named(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(JobFault) as caught:
        express(replace(plan([END]), **changes))
    assert text in str(caught.value)
    assert "PyTorch can" in str(caught.value)


@pytest.mark.parametrize("activation", ["relu", "tanh", "logistic", "identity"])
@pytest.mark.parametrize("name", ["MLPClassifier", "MLPRegressor"])
def test_the_gradients_with_dropout_are_those_of_the_loss(name: str, activation: str) -> None:
    """Against finite differences, with one mask for both."""
    perceptron = masked(name)(
        hidden_layer_sizes=(7, 6), activation=activation, alpha=0.0, random_state=1, batch_size=9
    )
    perceptron.rates, perceptron.right = {0: 0.3, 1: 0.5, 2: 0.4}, 0
    perceptron.random = np.random.default_rng(0)
    x = RANDOM.normal(size=(9, 4))
    classes = name == "MLPClassifier"
    y = np.arange(9) % 3 if classes else RANDOM.normal(size=(9, 3))
    perceptron.partial_fit(x, y, **({"classes": range(3)} if classes else {}))
    truth = np.eye(3)[y] if classes else y

    def loss_and_gradients() -> tuple[float, list[Any], list[Any]]:
        perceptron.random = np.random.default_rng(5)
        parts = len(perceptron.coefs_)
        made = perceptron._backprop(
            x, truth, None, [x] + [None] * parts, [None] * parts, [None] * parts, [None] * parts
        )
        return float(made[0]), made[1], made[2]

    # scikit-learn takes the mean of a squared error over outputs as well, and its gradient not
    factor = 1.0 if classes else 3.0
    _, weights, biases = loss_and_gradients()
    for number in range(3):
        for array, gradient in (
            (perceptron.coefs_[number], weights[number]),
            (perceptron.intercepts_[number], biases[number]),
        ):
            for at in list(np.ndindex(array.shape))[::3]:
                before, step = array[at], 1e-6
                array[at] = before + step
                above = loss_and_gradients()[0]
                array[at] = before - step
                below = loss_and_gradients()[0]
                array[at] = before
                slope = (above - below) / (2 * step) * factor
                assert slope == pytest.approx(gradient[at], abs=1e-6)


def test_what_dropout_trains_is_scaled_for_prediction() -> None:
    """On the average of many masks, what goes into the output is what prediction puts in."""
    trainer = SklearnTrainer(plan([dense(200, "relu"), {"type": "Dropout", "rate": 0.4}, END]))
    perceptron = trainer._perceptron
    x = RANDOM.normal(size=(1, 4)).astype(np.float32)
    perceptron.out_activation_ = "identity"  # Softmax would not keep the average
    sums = np.zeros(3)
    perceptron.random = np.random.default_rng(1)
    for _ in range(4000):
        sums += perceptron._forward_pass([x, None, None])[-1][0]
    weights = trainer.weights()
    hidden = np.maximum(x @ weights["layers.0.weight"].T + weights["layers.0.bias"], 0)
    expected = hidden @ weights["layers.2.weight"].T + weights["layers.2.bias"]
    assert sums / 4000 == pytest.approx(expected[0], abs=0.02)


@pytest.mark.parametrize(
    ("optimizer", "loss", "classes", "end"),
    [
        ("adam", "cross_entropy", 3, dense(3)),
        ({"type": "sgd", "momentum": 0.9, "nesterov": True}, "cross_entropy", 2, dense(2)),
        ("adam", "bce", 2, dense(1)),
        ("adam", "mse", None, dense(2)),
    ],
)
def test_a_copy_from_a_state_goes_on_the_same(
    optimizer: Any, loss: str, classes: int | None, end: dict[str, Any]
) -> None:
    given = [dense(6, "relu"), {"type": "Dropout", "rate": 0.2}, end]
    made = plan(given, optimizer=optimizer, loss=loss, classes=classes)

    def train(trainer: SklearnTrainer, epochs: range) -> None:
        for epoch in epochs:
            trainer.begin_epoch(epoch, 0.01)
            trainer.step(0, np.random.default_rng(epoch).permutation(20))

    one, other = SklearnTrainer(made), SklearnTrainer(made)
    train(one, range(5))
    other.begin_epoch(4, 0.01)
    other.restore(one.state())
    assert other.loss() == one.loss()
    assert other.accuracy() == one.accuracy()
    for trainer in (one, other):
        train(trainer, range(5, 8))
    for name, value in one.weights().items():
        assert np.array_equal(value, other.weights()[name])
    with pytest.raises(ValueError, match=r"weight\.0 is missing or of another shape"):
        SklearnTrainer(plan([dense(7, "relu"), END])).restore(one.state())


def test_the_count_of_right_answers_is_that_of_the_outputs() -> None:
    trainer = SklearnTrainer(plan([dense(6, "relu"), END]))
    x, y = trainer._plan.data.x, trainer._plan.data.y
    right = float((trainer.outputs(x).argmax(axis=1) == y).mean())
    trainer.begin_epoch(0, 1e-12)
    trainer.step(0, np.arange(20))
    assert trainer.accuracy() == right
    assert trainer.loss() == pytest.approx(
        loss_of("cross_entropy", trainer.outputs(x), y), rel=1e-4
    )


def test_metrics_are_those_of_scikit_learn() -> None:
    y = RANDOM.integers(0, 4, 100)
    outputs = RANDOM.dirichlet(np.ones(4), 100)
    said = outputs.argmax(axis=1)
    found = scores(("accuracy", "precision", "recall", "f1"), outputs, y, None)
    options: dict[str, Any] = {"average": "macro", "zero_division": 0}
    assert found["precision"] == pytest.approx(precision_score(y, said, **options))
    assert found["recall"] == pytest.approx(recall_score(y, said, **options))
    assert found["f1"] == pytest.approx(f1_score(y, said, **options))
    assert found["accuracy"] == (said == y).mean()
    assert loss_of("cross_entropy", outputs, y) == pytest.approx(log_loss(y, outputs))
    binary = RANDOM.uniform(0.1, 0.9, (100, 1))
    assert loss_of("bce", binary, y % 2) == pytest.approx(log_loss(y % 2, binary[:, 0]))


def test_metrics_of_numbers_are_in_their_own_unit() -> None:
    scaling = Scaling(mean=np.float32([50]), std=np.float32([10]))
    y = RANDOM.normal(size=(30, 1)).astype(np.float32)
    outputs = y + np.float32(0.5)
    found = scores(("mae", "mse", "rmse", "r2"), outputs, y, scaling)
    assert found["mae"] == pytest.approx(5, rel=1e-4)
    assert found["mse"] == pytest.approx(25, rel=1e-4)
    assert found["rmse"] == pytest.approx(5, rel=1e-4)
    assert found["r2"] == pytest.approx(r2_score(y, outputs), rel=1e-3)
    assert loss_of("mse", outputs, y) == pytest.approx(0.25)
    assert loss_of("mae", outputs, y) == pytest.approx(0.5)


def test_metrics_that_do_not_suit_are_refused() -> None:
    assert metric_names(("f1", "accuracy"), classes=True) == ("accuracy", "f1")
    with pytest.raises(JobFault, match="metrics: 'f1' is unknown for numbers; one of mae"):
        metric_names(("f1",), classes=False)
