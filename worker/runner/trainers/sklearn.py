"""Training with scikit-learn: its perceptrons, one `partial_fit` a step."""

from __future__ import annotations

from typing import Any, Final

from worker.runner import inference
from worker.runner.faults import diverged
from worker.runner.lazy import Array, need, np
from worker.runner.trainers.base import Plan, State
from worker.runner.trainers.masked import keep, masked
from worker.runner.trainers.perceptron import express

_INIT, _MASKS = 1, 3
"""Set apart what is random."""
_MOMENTS: Final = {"adam": ("ms", "vs"), "sgd": ("velocities",)}


class SklearnTrainer:
    """A `Trainer`."""

    batches_per_step = 16  # a call has costs of its own; SIGTERM waits for the end of one

    def __init__(self, plan: Plan) -> None:
        """Raises JobFault: scikit-learn cannot express it; EnvironmentLacks."""
        self._plan = plan
        self._shape = express(plan)
        self.about = f"scikit-learn {need('sklearn', package='scikit-learn').__version__} on cpu"
        self._epoch, self._sum, self._count = 0, 0.0, 0
        self._x = plan.data.x.reshape(len(plan.data.x), -1)
        self._y = plan.data.y[:, 0] if plan.data.y.shape[1:] == (1,) else plan.data.y
        self._perceptron = self._made()

    def _made(self) -> Any:
        plan, options = self._plan, self._plan.optimizer.options
        perceptron = masked("MLPRegressor" if plan.classes is None else "MLPClassifier")(
            hidden_layer_sizes=tuple(self._shape.units),
            activation=self._shape.activation,
            solver=plan.optimizer.kind,
            alpha=0.0,
            batch_size=1,
            shuffle=False,
            learning_rate_init=plan.optimizer.rate,
            momentum=options.get("momentum", 0.0),
            nesterovs_momentum=options.get("nesterov", False),
            beta_1=options.get("beta_1", 0.9),
            beta_2=options.get("beta_2", 0.999),
            epsilon=options.get("epsilon", 1e-8),
            n_iter_no_change=np.inf,
            random_state=0,
        )
        perceptron.rates, perceptron.right = self._shape.rates, 0
        # a first call makes the arrays; what it learned is thrown away
        perceptron.random = np.random.Generator(np.random.PCG64(0))
        self._fit(perceptron, np.arange(1))
        random = np.random.Generator(np.random.PCG64([plan.seed, _INIT]))
        factor = 2.0 if self._shape.activation == "logistic" else 6.0
        for weight, bias in zip(perceptron.coefs_, perceptron.intercepts_, strict=True):
            bound = (factor / sum(weight.shape)) ** 0.5  # Glorot's, as scikit-learn has it
            weight[:] = random.uniform(-bound, bound, weight.shape)
            bias[:] = random.uniform(-bound, bound, bias.shape)
        for moments in self._moments(perceptron).values():
            for one in moments:
                one[:] = 0
        self._optimizer(perceptron).t = 0
        return perceptron

    def begin_epoch(self, epoch: int, rate: float) -> None:
        self._epoch, self._sum, self._count = epoch, 0.0, 0
        self._perceptron.right = 0
        self._perceptron.loss_curve_.clear()
        optimizer = self._optimizer(self._perceptron)
        optimizer.learning_rate = optimizer.learning_rate_init = rate

    def step(self, step: int, indexes: Array) -> None:
        plan, perceptron = self._plan, self._perceptron
        perceptron.random = np.random.Generator(
            np.random.PCG64([plan.seed, _MASKS, self._epoch, step])
        )
        perceptron.batch_size = min(plan.batch_size, len(indexes))
        try:
            self._fit(perceptron, indexes)
        except ValueError:
            if all(np.isfinite(one).all() for one in perceptron.coefs_):
                raise
            raise diverged("the weights are no finite numbers any more") from None
        # scikit-learn minimises half of the squared error, and reports that
        self._sum += perceptron.loss_ * len(indexes) * (2 if plan.classes is None else 1)
        self._count += len(indexes)

    def _fit(self, perceptron: Any, indexes: Array) -> None:
        known = {} if self._plan.classes is None else {"classes": range(self._plan.classes)}
        perceptron.partial_fit(self._x[indexes], self._y[indexes], **known)

    def loss(self) -> float:
        return self._sum / max(1, self._count)

    def accuracy(self) -> float | None:
        if self._plan.classes is None:
            return None
        return float(self._perceptron.right) / max(1, self._count)

    def outputs(self, x: Array) -> Array:
        return inference.run(self._plan.model.layers, self.weights(), x)

    def weights(self) -> dict[str, Array]:
        found: dict[str, Array] = {}
        for number, index in enumerate(self._shape.dense):
            weight = self._perceptron.coefs_[number].T * np.float32(keep(self._shape.rates, number))
            bias = self._perceptron.intercepts_[number].copy()
            if index == self._shape.dense[-1] and self._plan.model.outputs == len(bias) + 1:
                # of two classes it trains one unit; the other's is 0, and Softmax gives the same
                weight = np.concatenate([np.zeros_like(weight), weight])
                bias = np.concatenate([np.zeros_like(bias), bias])
            found[f"layers.{index}.weight"], found[f"layers.{index}.bias"] = weight, bias
        return found

    def state(self) -> State:
        perceptron = self._perceptron
        tensors = {
            f"{name}.{number}": one.copy()
            for name, arrays in self._arrays().items()
            for number, one in enumerate(arrays)
        }
        values = {
            "t": getattr(self._optimizer(perceptron), "t", 0),
            "samples": perceptron.t_,
            "sum": self._sum,
            "count": self._count,
            "right": perceptron.right,
        }
        return State(tensors=tensors, values=values)

    def restore(self, state: State) -> None:
        perceptron = self._perceptron
        for name, arrays in self._arrays().items():
            for number, one in enumerate(arrays):
                saved = state.tensors.get(f"{name}.{number}")
                if saved is None or saved.shape != one.shape:
                    raise ValueError(f"{name}.{number} is missing or of another shape")
                one[:] = saved
        self._optimizer(perceptron).t = state.values["t"]
        perceptron.t_ = state.values["samples"]
        self._sum, self._count = state.values["sum"], state.values["count"]
        perceptron.right = state.values["right"]

    def _arrays(self) -> dict[str, list[Array]]:
        perceptron = self._perceptron
        return {
            "weight": perceptron.coefs_,
            "bias": perceptron.intercepts_,
            **self._moments(perceptron),
        }

    def _moments(self, perceptron: Any) -> dict[str, list[Array]]:
        optimizer = self._optimizer(perceptron)
        return {name: getattr(optimizer, name) for name in _MOMENTS[self._plan.optimizer.kind]}

    @staticmethod
    def _optimizer(perceptron: Any) -> Any:
        return perceptron._optimizer  # noqa: SLF001  # scikit-learn shows its state nowhere else
