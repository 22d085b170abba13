"""The loop with real signals: whenever one comes, what is saved is whole and exact."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from worker.runner.checkpoints import Checkpoints
from worker.runner.data.prepare import Prepared
from worker.runner.faults import JobFault, Terminated
from worker.runner.lazy import Array
from worker.runner.loop import Loop, Run, Trained
from worker.runner.model import layers
from worker.runner.model.head import fit
from worker.runner.options import parse
from worker.runner.protocol import Reporter
from worker.runner.schedule import Schedule
from worker.runner.signals import Signals
from worker.runner.stopping import Stopping
from worker.runner.trainers.base import Plan
from worker.runner.trainers.sklearn import SklearnTrainer

pytestmark = pytest.mark.unit

EPOCHS, STEPS = 3, 4
SAMPLES = np.random.default_rng(0).normal(size=(4 * 32, 6)).astype(np.float32)


class Signalled(SklearnTrainer):
    """Sends this process a signal in the midst of a step; trains as ever."""

    def __init__(self, plan: Plan, number: int, at: int) -> None:
        super().__init__(plan)
        self._number, self._at, self._taken = number, at, 0

    def step(self, step: int, indexes: Array) -> None:
        super().step(step, indexes)
        self._taken += 1
        if self._taken == self._at:
            os.kill(os.getpid(), self._number)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """pytest's own handlers are back afterwards."""
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR1)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def plan() -> Plan:
    model = fit(
        layers.parse(
            [
                {"type": "Dense", "units": 8, "activation": "ReLU"},
                {"type": "Dropout", "rate": 0.3},
                {"type": "Dense", "units": 2},
            ]
        ),
        (6,),
        loss=None,
        classes=2,
        targets=1,
    )
    y = (SAMPLES[:, 0] > 0).astype(np.int64)
    data = Prepared(
        x=SAMPLES,
        y=y,
        held_x=SAMPLES[:16],
        held_y=y[:16],
        input_scaling=None,
        target_scaling=None,
        digest="",
    )
    return Plan(
        model=model,
        data=data,
        classes=2,
        optimizer=parse({}, None).optimizer,
        batch_size=2,  # 16 batches a step: 4 steps an epoch
        seed=1,
        repeatable=True,
        gradient_clip=None,
        mixed_precision=False,
        device="cpu",
    )


def train(
    plan: Plan, directory: Path, trainer: SklearnTrainer
) -> tuple[Trained | str, list[dict[str, Any]]]:
    """What came of it (or why it ended), and what was said."""
    signals = Signals()
    signals.listen()
    told = directory / "told"
    directory.mkdir(exist_ok=True)
    fd = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    run = Run(
        trainer=trainer,
        data=plan.data,
        epochs=EPOCHS,
        batch_size=plan.batch_size,
        seed=plan.seed,
        rate=0.01,
        loss=plan.model.loss,
        metrics=("accuracy",),
        checkpoint_every=0,
    )
    loop = Loop(
        run,
        Reporter(fd, "job-1"),
        Checkpoints(directory / "ck", keep=3, made_from="this"),
        signals,
        stopping=Stopping(None, has_held_out=True),
        schedule=Schedule(parse({"schedule": "cosine"}, None).schedule, EPOCHS),
    )
    try:
        result: Trained | str = loop.train()
    except Terminated as ended:
        result = str(ended)
    os.close(fd)
    return result, [json.loads(line) for line in told.read_text().splitlines()]


def same(one: Trained | str, other: Trained | str) -> None:
    assert isinstance(one, Trained)
    assert isinstance(other, Trained)
    assert one.metrics == other.metrics
    for name, value in one.weights.items():
        assert np.array_equal(value, other.weights[name])


@pytest.mark.parametrize("at", range(1, EPOCHS * STEPS + 1))
def test_sigterm_in_any_step(plan: Plan, tmp_path: Path, at: int) -> None:
    whole, _ = train(plan, tmp_path / "whole", SklearnTrainer(plan))
    ended, said = train(plan, tmp_path / "job", Signalled(plan, signal.SIGTERM, at))
    epoch, step = divmod(at, STEPS)
    where = f"epoch {epoch}" + (f", step {step}" if step else "")
    assert ended == f"stopped by SIGTERM; a checkpoint was saved after {where}"
    assert [line["epoch"] for line in said if line["type"] == "checkpoint"] == [epoch]
    resumed, said = train(plan, tmp_path / "job", SklearnTrainer(plan))
    same(resumed, whole)
    epochs = [line["epoch"] for line in said if line["type"] == "progress"]
    assert epochs == list(range(epoch + 1, EPOCHS + 1))


@pytest.mark.parametrize("at", [1, STEPS, STEPS + 2])
def test_sigusr1_saves_once_and_changes_nothing(plan: Plan, tmp_path: Path, at: int) -> None:
    whole, _ = train(plan, tmp_path / "whole", SklearnTrainer(plan))
    asked, said = train(plan, tmp_path / "job", Signalled(plan, signal.SIGUSR1, at))
    same(asked, whole)
    assert [line["epoch"] for line in said if line["type"] == "checkpoint"] == [at // STEPS]
    resumed, _ = train(plan, tmp_path / "job", SklearnTrainer(plan))
    same(resumed, whole)


class Diverging(Signalled):
    """Whose weights are no numbers any more, which no loss has shown yet."""

    def weights(self) -> dict[str, Array]:
        return {name: value * np.float32(np.nan) for name, value in super().weights().items()}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_no_checkpoint_is_saved_of_what_diverged(plan: Plan, tmp_path: Path, number: int) -> None:
    with pytest.raises(JobFault, match="after epoch 0, step 2: the training diverged"):
        train(plan, tmp_path / "job", Diverging(plan, number, 2))
    assert not (tmp_path / "job" / "ck").exists()


class Weighed(Signalled):
    """Knows how many samples it was asked about at once."""

    def __init__(self, plan: Plan, number: int, at: int) -> None:
        super().__init__(plan, number, at)
        self.asked: list[int] = []

    def outputs(self, x: Array) -> Array:
        self.asked.append(len(x))
        return super().outputs(x)


def test_a_model_is_tried_with_no_more_than_a_batch(plan: Plan, tmp_path: Path) -> None:
    """Where nothing is held out: there may be no memory for more."""
    plan = replace(plan, data=replace(plan.data, held_x=SAMPLES[:0], held_y=plan.data.y[:0]))
    trainer = Weighed(plan, signal.SIGUSR1, EPOCHS * STEPS - 1)
    trained, said = train(plan, tmp_path / "job", trainer)
    assert isinstance(trained, Trained)
    assert [line["epoch"] for line in said if line["type"] == "checkpoint"] == [EPOCHS - 1]
    assert trainer.asked == [plan.batch_size] * 2, "once for the checkpoint, once at the end"
    trainer = Weighed(plan, signal.SIGTERM, 1)
    ended, _ = train(plan, tmp_path / "ended", trainer)
    assert ended == "stopped by SIGTERM; a checkpoint was saved after epoch 0, step 1"
    assert trainer.asked == [plan.batch_size]


def test_sigterm_before_training_ends_the_run_at_once() -> None:
    signals = Signals()
    signals.listen()
    with pytest.raises(Terminated, match="before there was anything to save"):
        os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(Terminated):
        signals.begin_training()


def test_nothing_cuts_off_the_last_word() -> None:
    signals = Signals()
    signals.listen()
    signals.ignore()
    os.kill(os.getpid(), signal.SIGTERM)
    assert not signals.terminate
