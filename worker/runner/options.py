"""`hyperparameters`, as the runner reads them. An unknown one is refused: it may be a typo."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from worker.runner.faults import JobFault
from worker.runner.fields import REQUIRED, Check, Fields, number, one_of, text, texts, truth, whole
from worker.runner.schedule import ScheduleOptions, schedule_options

_RATE: Final = number(above=0)
_SHARE: Final = number(least=0, below=1)
_LEAST_0: Final = number(least=0)

OPTIMIZERS: Final[dict[str, tuple[float, dict[str, tuple[Check[Any], Any]]]]] = {
    "adam": (
        1e-3,
        {
            "beta_1": (_SHARE, 0.9),
            "beta_2": (_SHARE, 0.999),
            "epsilon": (_RATE, 1e-8),
            "weight_decay": (_LEAST_0, 0.0),
        },
    ),
    "adamw": (
        1e-3,
        {
            "beta_1": (_SHARE, 0.9),
            "beta_2": (_SHARE, 0.999),
            "epsilon": (_RATE, 1e-8),
            "weight_decay": (_LEAST_0, 0.01),
        },
    ),
    "sgd": (
        1e-2,
        {
            "momentum": (_SHARE, 0.0),
            "nesterov": (truth, False),
            "weight_decay": (_LEAST_0, 0.0),
        },
    ),
    "rmsprop": (
        1e-3,
        {
            "alpha": (_SHARE, 0.99),
            "momentum": (_SHARE, 0.0),
            "epsilon": (_RATE, 1e-8),
            "weight_decay": (_LEAST_0, 0.0),
        },
    ),
}
"""Of each: its usual learning rate, and its parameters."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Optimizer:
    """How weights are moved."""

    kind: str
    rate: float
    """The learning rate before any schedule."""
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class EarlyStopping:
    """End when ``metric`` has not become better for ``patience`` epochs."""

    metric: str | None = None
    """None: the loss on the held-out samples, or of training where there are none."""
    patience: int = 5
    min_delta: float = 0.0
    restore_best: bool = True
    """Keep the weights of the best epoch, not of the last."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Everything beside the layers."""

    optimizer: Optimizer
    schedule: ScheduleOptions
    early_stopping: EarlyStopping | None
    task: str | None
    target: str | None
    features: tuple[str, ...] | None
    data_file: str | None
    image_size: tuple[int, int] | None
    image_color: str
    validation_split: float
    normalize: bool | None
    """None: unless the first layer is an Embedding."""
    normalize_target: bool | None
    """None: if the model ends with no activation."""
    gradient_clip: float | None
    mixed_precision: bool
    trainer: str
    keep_checkpoints: int


def parse(hyperparameters: Mapping[str, Any], optimizer: Any) -> Options:
    """The options of a job. Raises JobFault, which names the option."""
    for name, instead in _ELSEWHERE.items():
        if name in hyperparameters:
            raise JobFault(f"hyperparameters: {name} is unknown here; {instead}")
    fields = Fields("hyperparameters", hyperparameters)
    rate = fields.take("learning_rate", _RATE)
    chosen = _optimizer(optimizer, rate)
    stopping = fields.take("early_stopping", _stopping)
    options = Options(
        optimizer=chosen,
        schedule=schedule_options(fields.take("schedule", _object, {"type": "constant"})),
        early_stopping=None if stopping is None else _early_stopping(stopping),
        task=fields.take("task", one_of("classification", "regression")),
        target=fields.take("target", text),
        features=fields.take("features", texts),
        data_file=fields.take("data_file", text),
        image_size=fields.take("image_size", _two),
        image_color=fields.take("image_color", one_of("rgb", "grayscale"), "rgb"),
        validation_split=fields.take("validation_split", _SHARE, 0.2),
        normalize=fields.take("normalize", truth),
        normalize_target=fields.take("normalize_target", truth),
        gradient_clip=fields.take("gradient_clip", _RATE),
        mixed_precision=fields.take("mixed_precision", truth, False),
        trainer=fields.take("trainer", one_of("auto", "pytorch", "sklearn"), "auto"),
        keep_checkpoints=fields.take("keep_checkpoints", whole(), 3),
    )
    fields.done()
    return options


_ELSEWHERE: Final = {
    "epochs": "it is a field of the job",
    "batch_size": "it is a field of the job",
    "seed": "it is a field of the job",
    "optimizer": "it belongs into model_definition",
    "loss": "it belongs into model_definition",
    "momentum": 'write model_definition.optimizer as {"type": "sgd", "momentum": …}',
    "weight_decay": 'write model_definition.optimizer as {"type": "adamw", "weight_decay": …}',
}


def _optimizer(given: Any, rate: float | None) -> Optimizer:
    values = {"type": given or "adam"} if given is None or isinstance(given, str) else given
    if not isinstance(values, dict):
        raise JobFault("model_definition: optimizer is a name, or an object with its type")
    where = "model_definition.optimizer"
    kind = Fields(where, {"type": values.get("type")}).take("type", one_of(*OPTIMIZERS), REQUIRED)
    usual, parameters = OPTIMIZERS[kind]
    fields = Fields(where, {name: value for name, value in values.items() if name != "type"})
    own = fields.take("learning_rate", _RATE)
    options = {
        name: fields.take(name, check, default) for name, (check, default) in parameters.items()
    }
    fields.done()
    if own is not None and rate is not None and own != rate:
        raise JobFault(
            f"learning_rate is {rate:g} in hyperparameters and {own:g} in {where}; say it once"
        )
    if options.get("nesterov") and not options["momentum"]:
        raise JobFault(f"{where}: nesterov needs a momentum above 0")
    return Optimizer(kind=kind, rate=own or rate or usual, options=options)


def _stopping(value: Any) -> dict[str, Any]:
    if type(value) is int:
        value = {"patience": value}
    if not isinstance(value, dict):
        raise ValueError('a number of epochs, or an object such as {"patience": 5}')
    return value


def _early_stopping(values: dict[str, Any]) -> EarlyStopping:
    fields = Fields("hyperparameters.early_stopping", values)
    found = EarlyStopping(
        metric=fields.take("metric", text),
        patience=fields.take("patience", whole(), 5),
        min_delta=fields.take("min_delta", _LEAST_0, 0.0),
        restore_best=fields.take("restore_best", truth, True),
    )
    fields.done()
    return found


def _object(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        return {"type": value}
    if not isinstance(value, dict):
        raise ValueError('a name, or an object such as {"type": "cosine"}')
    return value


def _two(value: Any) -> tuple[int, int]:
    if (
        not isinstance(value, list)
        or len(value) != 2
        or not all(type(one) is int and 1 <= one <= 16384 for one in value)
    ):
        raise ValueError("two whole numbers, [height, width],")
    return (value[0], value[1])
