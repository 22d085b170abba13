"""Checks of the trainer that PyTorch does: each layer, optimizer and loss: see `torch_checks`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tests.integration.runner.checking import Check, refused
from worker.runner import inference, tensorfile
from worker.runner.__main__ import _judged
from worker.runner.data.prepare import Prepared
from worker.runner.faults import EnvironmentLacks, Exit, JobFault
from worker.runner.model import head, layers
from worker.runner.options import OPTIMIZERS, parse
from worker.runner.trainers.base import Plan, State
from worker.runner.trainers.pytorch import TorchTrainer
from worker.runner.trainers.torch_parts import computes_bfloat16

Layers = list[dict[str, Any]]

IMAGE, SEQUENCE, FLAT = (9, 8, 4), (7, 6), (5,)
END: Layers = [{"type": "Flatten"}, {"type": "Dense", "units": 3}]

CASES: dict[str, tuple[tuple[int, ...], Layers]] = {
    "dense": (FLAT, [{"type": "Dense", "units": 4, "use_bias": False}]),
    "dense_on_steps": (SEQUENCE, [{"type": "Dense", "units": 4, "activation": "tanh"}]),
    "conv1d": (SEQUENCE, [{"type": "Conv1D", "filters": 5, "kernel_size": 3}]),
    "conv1d_same": (
        SEQUENCE,
        [{"type": "Conv1D", "filters": 5, "kernel_size": 4, "padding": "same", "strides": 2}],
    ),
    "conv1d_dilated": (
        SEQUENCE,
        [{"type": "Conv1D", "filters": 4, "kernel_size": 2, "dilation": 3, "groups": 2}],
    ),
    "conv2d": (IMAGE, [{"type": "Conv2D", "filters": 3, "kernel_size": [3, 2]}]),
    "conv2d_same": (
        IMAGE,
        [
            {
                "type": "Conv2D",
                "filters": 4,
                "kernel_size": [4, 3],
                "strides": [2, 3],
                "padding": "same",
                "groups": 4,
                "use_bias": False,
            }
        ],
    ),
    "conv2d_dilated": (
        IMAGE,
        [{"type": "Conv2D", "filters": 2, "kernel_size": 3, "dilation": 2, "padding": "same"}],
    ),
    "max_pool": (IMAGE, [{"type": "MaxPool", "pool_size": [3, 2]}]),
    "max_pool_steps": (SEQUENCE, [{"type": "MaxPool", "pool_size": 3, "strides": 2}]),
    "avg_pool": (IMAGE, [{"type": "AvgPool", "pool_size": 2, "strides": [1, 2]}]),
    "avg_pool_steps": (SEQUENCE, [{"type": "AvgPool"}]),
    "batch_norm": (FLAT, [{"type": "BatchNorm"}]),
    "batch_norm_steps": (SEQUENCE, [{"type": "BatchNorm", "momentum": 0.5}]),
    "batch_norm_image": (IMAGE, [{"type": "BatchNorm", "epsilon": 0.01}]),
    "layer_norm": (SEQUENCE, [{"type": "LayerNorm"}]),
    "embedding": ((6,), [{"type": "Embedding", "num_embeddings": 9, "embedding_dim": 4}]),
    "lstm": (SEQUENCE, [{"type": "LSTM", "units": 4}]),
    "lstm_both_ways": (SEQUENCE, [{"type": "LSTM", "units": 4, "bidirectional": True}]),
    "lstm_sequences": (
        SEQUENCE,
        [{"type": "LSTM", "units": 3, "bidirectional": True, "return_sequences": True}],
    ),
    "gru": (SEQUENCE, [{"type": "GRU", "units": 4, "return_sequences": True}]),
    "gru_both_ways": (SEQUENCE, [{"type": "GRU", "units": 4, "bidirectional": True}]),
    "dropout": (FLAT, [{"type": "Dropout", "rate": 0.4}]),
    **{
        name.lower(): (FLAT, [{"type": "Dense", "units": 6}, {"type": name}])
        for name in layers.ACTIVATIONS
    },
    "elu_with_alpha": (FLAT, [{"type": "ELU", "alpha": 0.3}]),
    "leaky_with_slope": (FLAT, [{"type": "LeakyReLU", "negative_slope": 0.3}]),
}


def made(
    given: Layers,
    shape: tuple[int, ...] = FLAT,
    *,
    loss: str | None = None,
    optimizer: Any = "adam",
    count: int = 40,
    batch_size: int = 8,
    **more: Any,
) -> TorchTrainer:
    """A trainer with data of its own; three classes, or three numbers."""
    numbers = loss in ("mse", "mae")
    model = head.fit(
        layers.parse(given),
        shape,
        loss=loss,
        classes=None if numbers else 2 if loss == "bce" else 3,
        targets=3 if numbers else 1,
    )
    random = np.random.default_rng(1)
    if given[0]["type"] == "Embedding":
        x = random.integers(0, 9, (count, *shape))
    else:
        x = random.normal(size=(count, *shape)).astype(np.float32)
    y = (
        x.reshape(count, -1)[:, :3].astype(np.float32)
        if numbers
        else random.integers(0, 2 if loss == "bce" else 3, count)
    )
    data = Prepared(
        x=x, y=y, held_x=x[:9], held_y=y[:9], input_scaling=None, target_scaling=None, digest=""
    )
    plan = Plan(
        model=model,
        data=data,
        classes=None if numbers else 2 if loss == "bce" else 3,
        optimizer=parse({}, optimizer).optimizer,
        batch_size=batch_size,
        seed=5,
        repeatable=True,
        gradient_clip=None,
        mixed_precision=False,
        device="any",
    )
    return TorchTrainer(replace(plan, **more))


def train(trainer: TorchTrainer, first: int, last: int, rate: float = 0.01) -> None:
    """Epochs, each with the samples in another order."""
    plan = trainer._plan
    for epoch in range(first, last):
        trainer.begin_epoch(epoch, rate)
        order = np.random.default_rng(epoch).permutation(len(plan.data.x))
        for step, at in enumerate(range(0, len(order), plan.batch_size)):
            trainer.step(step, order[at : at + plan.batch_size])


def same_weights(one: TorchTrainer, other: TorchTrainer) -> bool:
    weights = other.weights()
    return all(np.array_equal(value, weights[name]) for name, value in one.weights().items())


def agrees(case: str) -> Check:
    """What PyTorch predicts, numpy predicts from the saved weights."""

    def check(directory: Path) -> None:
        shape, given = CASES[case]
        trainer = made([*given, *END], shape)
        train(trainer, 0, 2)  # so that running means are not those of the beginning
        x = trainer._plan.data.held_x
        path = directory / "weights.safetensors"
        tensorfile.write(path, trainer.weights(), {})
        weights, _ = tensorfile.read(path)
        expected = trainer.outputs(x)
        np.testing.assert_allclose(expected.sum(axis=1), 1, rtol=1e-5)
        found = inference.run(trainer._plan.model.layers, weights, x)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)

    return check


def learns(optimizer: dict[str, Any], loss: str) -> Check:
    """The loss falls, and a copy from a state within an epoch goes on bit by bit the same."""

    def check(directory: Path) -> None:
        outputs = 1 if loss == "bce" else 3
        given: Layers = [
            {"type": "Dense", "units": 32, "activation": "relu"},
            {"type": "BatchNorm"},
            {"type": "Dropout", "rate": 0.1},
            {"type": "Dense", "units": outputs},
        ]
        trainer = made(given, loss=loss, optimizer=optimizer)
        train(trainer, 0, 1)
        first = trainer.loss()
        train(trainer, 1, 20)
        assert trainer.loss() < first * 0.9, (first, trainer.loss())
        assert (trainer.accuracy() is None) == (loss in ("mse", "mae"))
        path = directory / "state.safetensors"
        trainer.begin_epoch(20, 0.01)
        trainer.step(0, np.arange(8))
        state = trainer.state()
        tensorfile.write(path, state.tensors, {"values": json.dumps(state.values)})
        tensors, metadata = tensorfile.read(path)
        copy = made(given, loss=loss, optimizer=optimizer)
        assert not same_weights(copy, trainer)
        copy.begin_epoch(20, 0.01)
        copy.restore(State(tensors=tensors, values=json.loads(metadata["values"])))
        for one in (trainer, copy):
            one.step(1, np.arange(8, 16))
        assert copy.loss() == trainer.loss()
        assert copy.accuracy() == trainer.accuracy()
        for one in (trainer, copy):
            train(one, 21, 23)
        assert same_weights(copy, trainer)
        assert copy.loss() == trainer.loss()

    return check


def one_sample_alone_does_not_stop_batch_norm(directory: Path) -> None:
    trainer = made([{"type": "BatchNorm"}, {"type": "Dense", "units": 3}], count=17)
    train(trainer, 0, 1)
    assert np.isfinite(trainer.loss())


def one_sample_in_each_batch_cannot_train_batch_norm(directory: Path) -> None:
    given: Layers = [{"type": "BatchNorm"}, {"type": "Dense", "units": 3}]
    with refused(JobFault, "layers[0] (BatchNorm): batch_size is 1"):
        made(given, batch_size=1)
    with refused(JobFault, "layers[0] (BatchNorm): there is one sample to train with"):
        made(given, count=1)
    with refused(JobFault, "layers[0] (BatchNorm): batch_size is 1"):
        made([*given[:1], *END], (1, 6), batch_size=1)
    for shape in (SEQUENCE, IMAGE):  # the steps or pixels of one sample have a variance
        trainer = made([{"type": "BatchNorm"}, *END], shape, count=3, batch_size=1)
        before = trainer.weights()
        train(trainer, 0, 1)
        assert trainer.loss() > 0
        after = trainer.weights()
        assert all(not np.array_equal(before[name], after[name]) for name in before), before


def gradients_are_clipped(directory: Path) -> None:
    given: Layers = [{"type": "Dense", "units": 3}]
    plain = {"type": "sgd", "learning_rate": 1.0}
    free, clipped = made(given, optimizer=plain), made(given, optimizer=plain, gradient_clip=1e-3)
    before = clipped.weights()
    for one in (free, clipped):
        one.begin_epoch(0, 1.0)
        one.step(0, np.arange(8))
    moved = sum(float(((clipped.weights()[k] - v) ** 2).sum()) for k, v in before.items()) ** 0.5
    assert abs(moved - 1e-3) < 1e-5, moved
    assert not same_weights(free, clipped)


def a_step_beyond_all_numbers_is_a_divergence(directory: Path) -> None:
    """Adam's first one is ten times the learning rate, which is more than a float32 is."""
    trainer = made([{"type": "Dense", "units": 3}], optimizer="adam")
    with refused(JobFault, "larger than the largest number: the training diverged; choose a lower"):
        train(trainer, 0, 1, rate=1e38)


def mixed_precision_needs_a_gpu_and_says_so(directory: Path) -> None:
    trainer = made([{"type": "Dense", "units": 3}], mixed_precision=True, device="cpu")
    train(trainer, 0, 1)
    assert trainer.weights()["layers.0.weight"].dtype == np.float32


def half_precision_is_of_a_kind_that_the_gpu_itself_has(directory: Path) -> None:
    """GPUs before 2020 only emulate bfloat16; older versions of PyTorch do not count that."""
    import torch

    asked = torch.cuda.is_bf16_supported
    answers: list[tuple[Callable[..., bool], bool]] = [
        (lambda including_emulation=True: including_emulation, False),
        (lambda including_emulation=True: True, True),
        (lambda: True, True),
        (lambda: False, False),
    ]
    try:
        for answer, right in answers:
            torch.cuda.is_bf16_supported = answer  # type: ignore[assignment]  # stands in for PyTorch's own
            assert computes_bfloat16() is right
    finally:
        torch.cuda.is_bf16_supported = asked


def a_gpu_goes_on_from_what_was_not_scaled(directory: Path) -> None:
    """From a checkpoint of a CPU, or of a GPU that has bfloat16: there is no scale in it."""
    import torch

    trainer = made([{"type": "Dense", "units": 3}])
    train(trainer, 0, 1)
    state = trainer.state()
    assert state.values["scaler"] == {}
    other = made([{"type": "Dense", "units": 3}])
    other._scaler = torch.amp.GradScaler("cpu", enabled=True)
    other.restore(state)
    assert same_weights(other, trainer)
    scaled = other.state()
    assert scaled.values["scaler"]["scale"] > 1
    trainer.restore(scaled)  # and the other way round


def a_gpu_that_is_not_there_is_missed(directory: Path) -> None:
    import torch

    wanted = "rocm" if torch.cuda.is_available() and not torch.version.hip else "cuda"
    if torch.cuda.is_available() and torch.version.hip:
        return
    with refused(EnvironmentLacks, f"required_device is {wanted}"):
        made([{"type": "Dense", "units": 3}], device=wanted)


def memory_that_is_not_enough_is_known_as_such(directory: Path) -> None:
    found: Exception | None = None
    try:
        made([{"type": "Dense", "units": 2**36}, {"type": "Dense", "units": 3}])
    except Exception as error:
        found = error
    assert found is not None, "it was had"
    assert _judged(found)[0] is Exit.MEMORY, found


def weights_of_another_model_are_refused(directory: Path) -> None:
    state = made([{"type": "Dense", "units": 3}]).state()
    with refused(ValueError, "of another model"):
        made([{"type": "Dense", "units": 4}, {"type": "Dense", "units": 3}]).restore(state)


_MOMENTUM: dict[str, dict[str, Any]] = {
    "sgd_nesterov": {"type": "sgd", "momentum": 0.9, "nesterov": True, "weight_decay": 1e-4},
    "rmsprop_momentum": {"type": "rmsprop", "momentum": 0.5},
}

CHECKS: dict[str, Check] = {
    **{f"agrees_{name}": agrees(name) for name in CASES},
    **{f"learns_{name}": learns({"type": name}, "cross_entropy") for name in OPTIMIZERS},
    **{f"learns_{name}": learns(one, "cross_entropy") for name, one in _MOMENTUM.items()},
    **{f"learns_{loss}": learns({"type": "adam"}, loss) for loss in ("bce", "mse", "mae")},
    **{
        check.__name__: check
        for check in (
            one_sample_alone_does_not_stop_batch_norm,
            one_sample_in_each_batch_cannot_train_batch_norm,
            a_step_beyond_all_numbers_is_a_divergence,
            gradients_are_clipped,
            mixed_precision_needs_a_gpu_and_says_so,
            a_gpu_goes_on_from_what_was_not_scaled,
            a_gpu_that_is_not_there_is_missed,
            half_precision_is_of_a_kind_that_the_gpu_itself_has,
            memory_that_is_not_enough_is_known_as_such,
            weights_of_another_model_are_refused,
        )
    },
}
