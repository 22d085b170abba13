"""Training with PyTorch: every layer, optimizer and loss, on a CPU or one GPU."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from math import prod
from typing import Any, Final

from worker.runner.faults import diverged
from worker.runner.lazy import Array, need, np, torch
from worker.runner.protocol import log
from worker.runner.trainers.base import Plan, State
from worker.runner.trainers.torch_layers import Piece, build
from worker.runner.trainers.torch_parts import (
    computes_bfloat16,
    device_for,
    make_loss,
    make_optimizer,
    make_repeatable,
    optimizer_tensors,
    restore_optimizer,
)

_INIT, _DROPOUT = 1, 3
"""Set apart what is random."""
_PREDICTED: Final = 1024
"""Samples at once."""
_SHARE_OF_GPU: Final = 0.25
"""Data that need no more of its free memory are kept there."""


class TorchTrainer:
    """A `Trainer`."""

    batches_per_step = 1

    def __init__(self, plan: Plan) -> None:
        """Raises EnvironmentLacks: no PyTorch, or not the device that is needed."""
        need("torch", why="the trainer")
        self._plan = plan
        self._device = device_for(plan.device)
        if plan.repeatable:
            make_repeatable(self._device)
        self.about = f"PyTorch {torch.__version__} on {_name(self._device)}"
        self._reseed(_INIT)
        self._pieces = [build(one) for one in plan.model.layers]
        self._modules = torch.nn.ModuleDict(
            {str(one.layer.index): one.module for one in self._pieces if one.module is not None}
        ).to(self._device)
        self._trained = self._pieces[: len(plan.model.trained)]
        kinds = {one.layer.kind for one in self._pieces}
        self._random = "Dropout" in kinds
        self._fewest = _fewest(plan)
        self._parameters = list(self._modules.parameters())
        self._optimizer = make_optimizer(plan.optimizer, self._parameters)
        self._loss = make_loss(plan.model.loss)
        self._half = self._half_precision()
        self._scaler = torch.amp.GradScaler("cuda", enabled=self._half is torch.float16)
        self._x, self._y = self._placed(plan.data.x), self._placed(plan.data.y)
        self._epoch, self._count = 0, 0
        self._sum = torch.zeros((), dtype=torch.float64, device=self._device)
        self._right = torch.zeros((), dtype=torch.int64, device=self._device)

    def begin_epoch(self, epoch: int, rate: float) -> None:
        self._epoch, self._count = epoch, 0
        self._sum.zero_()
        self._right.zero_()
        for group in self._optimizer.param_groups:
            group["lr"] = rate

    def step(self, step: int, indexes: Array) -> None:
        if len(indexes) < self._fewest:
            return  # a last batch of one sample, which has no variance for BatchNorm
        if self._random:
            self._reseed(_DROPOUT, self._epoch, step)
        x, y = self._batch(indexes)
        self._modules.train()
        self._optimizer.zero_grad(set_to_none=True)
        with self._precision():
            made = _through(self._trained, x)
            loss = self._loss(made, y)
        self._scaler.scale(loss).backward()
        if self._plan.gradient_clip is not None:
            self._scaler.unscale_(self._optimizer)
            torch.nn.utils.clip_grad_norm_(self._parameters, self._plan.gradient_clip)
        self._move()
        # summed on the device: to look at each batch's loss would make the GPU wait
        self._sum += loss.detach().double() * len(indexes)
        self._count += len(indexes)
        if self._plan.classes is not None:
            self._right += (_chosen(made.detach(), self._plan.model.loss) == y).sum()

    def _move(self) -> None:
        """Raises JobFault: by more than there are numbers for."""
        try:
            self._scaler.step(self._optimizer)
        except RuntimeError as error:
            if "without overflow" not in str(error):
                raise
            raise diverged("a step is larger than the largest number") from None
        self._scaler.update()

    def loss(self) -> float:
        return float(self._sum) / max(1, self._count)

    def accuracy(self) -> float | None:
        if self._plan.classes is None:
            return None
        return int(self._right) / max(1, self._count)

    def outputs(self, x: Array) -> Array:
        self._modules.eval()
        made = []
        with torch.inference_mode():
            for at in range(0, len(x), _PREDICTED):
                part = torch.from_numpy(x[at : at + _PREDICTED]).to(self._device)
                made.append(_through(self._pieces, part).float().cpu().numpy())
        return np.concatenate(made)

    def weights(self) -> dict[str, Array]:
        return {
            f"layers.{name}": value.detach().cpu().numpy().copy()
            for name, value in self._modules.state_dict().items()
            if not name.endswith(".num_batches_tracked")
        }

    def state(self) -> State:
        tensors = {
            f"model.{name}": value.detach().cpu().clone()
            for name, value in self._modules.state_dict().items()
        } | optimizer_tensors(self._optimizer)
        return State(
            tensors={name: value.numpy() for name, value in tensors.items()},
            values={
                "sum": float(self._sum),
                "count": self._count,
                "right": int(self._right),
                "scaler": self._scaler.state_dict(),
            },
        )

    def restore(self, state: State) -> None:
        tensors = {name: torch.from_numpy(value) for name, value in state.tensors.items()}
        model = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
        try:
            self._modules.load_state_dict(model)
        except RuntimeError as error:
            raise ValueError(f"the weights are of another model: {error}") from None
        restore_optimizer(
            self._optimizer, {k: v for k, v in tensors.items() if k.startswith("optimizer.")}
        )
        if state.values["scaler"]:  # none is kept where nothing was scaled
            self._scaler.load_state_dict(state.values["scaler"])
        self._sum.fill_(state.values["sum"])
        self._right.fill_(state.values["right"])
        self._count = state.values["count"]

    def _reseed(self, *parts: int) -> None:
        # torch.manual_seed would keep a stack trace of each call until CUDA is used
        words = np.random.SeedSequence([self._plan.seed, *parts]).generate_state(1, np.uint64)
        seed = int(words[0] >> np.uint64(1))
        torch.default_generator.manual_seed(seed)
        if self._device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def _half_precision(self) -> Any:
        """The type that mixed precision computes in; None: all is done in full."""
        if not self._plan.mixed_precision:
            return None
        if self._device.type != "cuda":
            log("mixed_precision is for GPUs; without one all is computed in full precision")
            return None
        return torch.bfloat16 if computes_bfloat16() else torch.float16

    def _precision(self) -> AbstractContextManager[Any]:
        if self._half is None:
            return nullcontext()
        return torch.autocast("cuda", dtype=self._half)  # type: ignore[no-any-return]  # untyped

    def _placed(self, array: Array) -> Any:
        tensor = torch.from_numpy(array)
        if self._device.type != "cuda":
            return tensor
        free, _ = torch.cuda.mem_get_info(self._device)
        return tensor.to(self._device) if array.nbytes < free * _SHARE_OF_GPU else tensor

    def _batch(self, indexes: Array) -> tuple[Any, Any]:
        chosen = torch.from_numpy(indexes)
        x = self._x[chosen.to(self._x.device)].to(self._device)
        return x, self._y[chosen.to(self._y.device)].to(self._device)


def _fewest(plan: Plan) -> int:
    """Samples that a batch needs. Raises JobFault: no batch has as many.

    BatchNorm needs two values of each channel: two samples, or one with several steps or pixels.
    """
    for one in plan.model.trained:
        if one.layer.kind != "BatchNorm" or prod(one.input[:-1]) > 1:
            continue
        if plan.batch_size == 1:
            raise one.layer.wrong(
                "batch_size is 1, and one sample has no variance; set batch_size to 2 or more, or "
                "use LayerNorm"
            )
        if len(plan.data.x) == 1:
            raise one.layer.wrong(
                "there is one sample to train with, which has no variance; bring more data, or "
                "use LayerNorm"
            )
        return 2
    return 1


def _through(pieces: list[Piece], x: Any) -> Any:
    for piece in pieces:
        x = piece.call(x)
    return x


def _chosen(made: Any, loss: str) -> Any:
    return (made[:, 0] > 0).long() if loss == "bce" else made.argmax(dim=1)


def _name(device: Any) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
