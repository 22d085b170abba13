"""What a trainer is to the loop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from worker.runner.data.prepare import Prepared
from worker.runner.lazy import Array
from worker.runner.model.head import Model
from worker.runner.options import Optimizer


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """All that a trainer is made from."""

    model: Model
    data: Prepared
    classes: int | None
    """None: numbers are learned."""
    optimizer: Optimizer
    batch_size: int
    seed: int
    repeatable: bool
    """The same seed shall give the same weights, even where that is slower."""
    gradient_clip: float | None
    """Largest norm of all gradients together."""
    mixed_precision: bool
    device: str
    """cpu, cuda, rocm or any."""


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """Everything that a trainer needs to go on as if it had never stopped."""

    tensors: Mapping[str, Array]
    values: Mapping[str, Any] = field(default_factory=dict)
    """Numbers and texts, as JSON has them."""


class Trainer(Protocol):
    """Moves a model's weights, one step at a time.

    Whatever it does at random in a step follows from seed, epoch and step alone; so `State` needs
    no state of a random generator, and a resumed run takes the same steps.
    """

    about: str
    """Library, version and device."""
    batches_per_step: int
    """Batches that one call of `step` may have."""

    def begin_epoch(self, epoch: int, rate: float) -> None:
        """``epoch`` counts from 0; ``rate`` is its learning rate. Sets the epoch's sums to 0."""

    def step(self, step: int, indexes: Array) -> None:
        """Train with these samples, in this order, in batches; ``step`` counts from 0."""

    def loss(self) -> float:
        """The mean over the epoch's samples so far, as they were trained."""

    def accuracy(self) -> float | None:
        """The share of them that were classified rightly; None for numbers."""

    def outputs(self, x: Array) -> Array:
        """Predictions for scaled samples: probabilities, or scaled numbers."""

    def weights(self) -> dict[str, Array]:
        """The model's weights as `worker.runner.model_file` has them; copies."""

    def state(self) -> State:
        """A copy of everything, between two steps."""

    def restore(self, state: State) -> None:
        """Go on from `state`. Raises ValueError: it is of another model."""
