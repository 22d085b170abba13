"""The loop of epochs: the same for every trainer."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from worker.runner.checkpoints import Checkpoints, Saved
from worker.runner.data.prepare import Prepared
from worker.runner.faults import Terminated, diverged
from worker.runner.lazy import Array, np
from worker.runner.protocol import Reporter, log
from worker.runner.schedule import Schedule
from worker.runner.scores import loss_of, scores
from worker.runner.signals import Signals
from worker.runner.stopping import Stopping
from worker.runner.trainers.base import State, Trainer

_ORDER: Final = 2
"""Sets the order of the samples apart from what else is random."""
_SIGN_OF_LIFE_S: Final = 10.0
"""An epoch that takes long says so this often, in seconds."""
_TRIED: Final = 1024
"""Samples that a model is tried with at most, where none are held out."""
_BEST: Final = "best/"
_TRAINER: Final = "trainer/"


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """What the loop works with."""

    trainer: Trainer
    data: Prepared
    epochs: int
    batch_size: int
    seed: int
    rate: float
    """The learning rate before the schedule."""
    loss: str
    metrics: tuple[str, ...]
    checkpoint_every: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """What came of it."""

    weights: Mapping[str, Array]
    metrics: Mapping[str, float]
    """As reported after the epoch that the weights are of."""
    epochs: int
    """That were trained."""
    best_epoch: int
    """That the weights are of."""


class Loop:
    """Trains to the end, from the beginning or from a checkpoint."""

    def __init__(
        self,
        run: Run,
        reporter: Reporter,
        checkpoints: Checkpoints,
        signals: Signals,
        *,
        stopping: Stopping,
        schedule: Schedule,
    ) -> None:
        self._run, self._reporter, self._signals = run, reporter, signals
        self._checkpoints, self._stopping, self._schedule = checkpoints, stopping, schedule
        self._epoch = self._step = 0
        self._metrics: dict[str, float] = {}
        self._best: dict[str, Array] | None = None
        self._best_metrics: dict[str, float] = {}
        self._told_at = time.monotonic()

    def train(self) -> Trained:
        """Raises JobFault, Terminated (a checkpoint was saved), OSError."""
        saved = self._checkpoints.latest()
        if saved is not None:
            self._restore(saved)
        self._signals.begin_training()
        while self._epoch < self._run.epochs and not self._stopping.over:
            self._train_epoch()
            self._end_epoch()
        self._signals.end_training()
        if self._best is not None:
            return Trained(
                weights=self._best,
                metrics=self._best_metrics,
                epochs=self._epoch,
                best_epoch=self._stopping.best_epoch,
            )
        return Trained(
            weights=self._whole_weights(),
            metrics=self._metrics,
            epochs=self._epoch,
            best_epoch=self._epoch,
        )

    def _train_epoch(self) -> None:
        run, trainer = self._run, self._run.trainer
        order = np.random.Generator(np.random.PCG64([run.seed, _ORDER, self._epoch])).permutation(
            len(run.data.x)
        )
        size = trainer.batches_per_step * run.batch_size
        steps = -(-len(order) // size)
        if not self._step:
            trainer.begin_epoch(self._epoch, self._rate())
        while self._step < steps:
            self._obey()
            trainer.step(self._step, order[self._step * size : (self._step + 1) * size])
            self._step += 1
            if self._step < steps and time.monotonic() - self._told_at > _SIGN_OF_LIFE_S:
                self._tell(trainer.loss(), step=self._step, steps=steps)
        self._step = 0

    def _end_epoch(self) -> None:
        """Measure, say so, and save if it is due."""
        run = self._run
        rate = self._rate()
        self._epoch += 1
        self._metrics = self._measured()
        for name, value in self._metrics.items():
            if not math.isfinite(value):
                raise diverged(f"the {name} is {value} after {self._where()}")
        if self._stopping.observe(self._epoch, self._metrics) and self._stopping.keeps_best:
            self._best, self._best_metrics = self._whole_weights(), self._metrics
        self._schedule.observe(self._metrics.get("val_loss", self._metrics["loss"]))
        self._tell(**self._metrics, learning_rate=rate)
        if run.checkpoint_every and self._epoch % run.checkpoint_every == 0:
            self._signals.take_checkpoint()  # asked for or not: here it is
            self._save()
        self._obey()

    def _measured(self) -> dict[str, float]:
        run = self._run
        found = {"loss": run.trainer.loss()}
        accuracy = run.trainer.accuracy()
        if accuracy is not None:
            found["accuracy"] = accuracy
        if len(run.data.held_x):
            found |= {f"val_{name}": value for name, value in self._held_out().items()}
        return found

    def _held_out(self) -> dict[str, float]:
        run = self._run
        outputs = run.trainer.outputs(run.data.held_x)
        return {
            "loss": loss_of(run.loss, outputs, run.data.held_y),
            **scores(run.metrics, outputs, run.data.held_y, run.data.target_scaling),
        }

    def _whole_weights(self) -> dict[str, Array]:
        """The model's weights, which can be used.

        A loss was measured before the step that it led to, so it does not show what that step did.
        The model is tried with no more than a batch of the training: for that there is memory, and
        a checkpoint on SIGTERM has no time for more.
        """
        run = self._run
        weights = run.trainer.weights()
        if not all(np.isfinite(one).all() for one in weights.values()):
            raise diverged(f"weights are no finite numbers after {self._where()}")
        seen = len(run.data.held_x) > 0  # then metrics of the outputs were looked at
        tried = run.data.x[: 0 if seen else min(_TRIED, run.batch_size)]
        if len(tried) and not np.isfinite(run.trainer.outputs(tried)).all():
            raise diverged(f"what the model says is no finite number after {self._where()}")
        return weights

    def _where(self) -> str:
        return f"epoch {self._epoch}" + (f", step {self._step}" if self._step else "")

    def _rate(self) -> float:
        return self._run.rate * self._schedule.share(self._epoch)

    def _tell(self, loss: float, **metrics: float) -> None:
        self._told_at = time.monotonic()
        self._reporter.progress(self._epoch, self._run.epochs, loss, **metrics)

    def _obey(self) -> None:
        """Between two steps the state is whole: do what the node has asked for."""
        terminate = self._signals.terminate
        if not (self._signals.take_checkpoint() or terminate):
            return
        if self._epoch or self._step:
            self._save()
            what = f"a checkpoint was saved after {self._where()}"
        else:
            what = "nothing was trained yet, and nothing saved"
        if terminate:
            raise Terminated(f"stopped by SIGTERM; {what}")
        log(f"asked by SIGUSR1: {what}")

    def _save(self) -> None:
        if not math.isfinite(loss := self._run.trainer.loss()):
            raise diverged(f"the loss is {loss} after {self._where()}")
        self._whole_weights()
        state = self._run.trainer.state()
        tensors = {f"{_TRAINER}{name}": value for name, value in state.tensors.items()}
        tensors |= {f"{_BEST}{name}": value for name, value in (self._best or {}).items()}
        values: dict[str, Any] = {
            "trainer": dict(state.values),
            "metrics": self._metrics,
            "best_metrics": self._best_metrics,
            "stopping": self._stopping.state(),
            "schedule": self._schedule.state(),
            "rate": self._rate(),
        }
        path, sha256 = self._checkpoints.save(self._epoch, self._step, tensors, values)
        self._reporter.checkpoint(self._epoch, path, sha256)

    def _restore(self, saved: Saved) -> None:
        values, trainer = saved.values, self._run.trainer
        self._epoch, self._step = saved.epoch, saved.step
        self._schedule.restore(values["schedule"])
        self._stopping.restore(values["stopping"])
        self._metrics, self._best_metrics = dict(values["metrics"]), dict(values["best_metrics"])
        parts: dict[str, dict[str, Array]] = {_TRAINER: {}, _BEST: {}}
        for name, value in saved.tensors.items():
            prefix, _, rest = name.partition("/")
            parts[f"{prefix}/"][rest] = value
        self._best = parts[_BEST] or None
        # sets the epoch's sums to 0, so what the state says of them comes after it
        trainer.begin_epoch(self._epoch, self._rate())
        trainer.restore(State(tensors=parts[_TRAINER], values=values["trainer"]))
        log(f"resumed from {saved.path.name}: epoch {self._epoch} of {self._run.epochs} is over")
