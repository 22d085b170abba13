"""Hyperparameters, the learning rate's course, early stopping."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tasks import model as promised
from worker.runner.faults import JobFault
from worker.runner.jobspec import decode, encoded_config, job_spec
from worker.runner.options import OPTIMIZERS, EarlyStopping, parse
from worker.runner.schedule import Schedule, schedule_options
from worker.runner.stopping import Stopping

pytestmark = pytest.mark.unit


def test_the_runner_knows_every_optimizer_that_a_producer_may_write() -> None:
    assert set(OPTIMIZERS) == set(promised.OPTIMIZERS)


def test_what_is_left_out_has_a_usual_value() -> None:
    options = parse({}, None)
    assert (options.optimizer.kind, options.optimizer.rate) == ("adam", 0.001)
    assert options.early_stopping is None
    assert (options.validation_split, options.keep_checkpoints) == (0.2, 3)


def test_the_learning_rate_may_stand_in_either_place() -> None:
    assert parse({"learning_rate": 0.5}, "sgd").optimizer.rate == 0.5
    assert parse({}, {"type": "sgd", "learning_rate": 0.5}).optimizer.rate == 0.5
    with pytest.raises(JobFault, match=r"learning_rate is 0\.1 in hyperparameters and 0\.5"):
        parse({"learning_rate": 0.1}, {"type": "sgd", "learning_rate": 0.5})


@pytest.mark.parametrize(
    ("hyperparameters", "optimizer", "text"),
    [
        ({"learning_rat": 1}, None, "hyperparameters: learning_rat is unknown here; known: learn"),
        ({"epochs": 3}, None, "epochs is unknown here; it is a field of the job"),
        ({"momentum": 0.9}, None, "write model_definition.optimizer as"),
        ({"learning_rate": 0}, None, "learning_rate is 0; a number above 0 is needed"),
        ({"learning_rate": "fast"}, None, "learning_rate is 'fast'; a number"),
        ({"validation_split": 1}, None, "validation_split is 1; a number at least 0 and below 1"),
        ({"trainer": "jax"}, None, "trainer is 'jax'; one of auto, pytorch, sklearn"),
        ({"early_stopping": {"patience": 0}}, None, "early_stopping: patience is 0"),
        ({"early_stopping": "yes"}, None, "early_stopping is 'yes'; a number of epochs, or"),
        ({"schedule": "never"}, None, "schedule: type is 'never'; one of constant, step"),
        ({"schedule": {"type": "step"}}, None, "schedule (step): step_size is missing"),
        ({"schedule": {"type": "cosine", "gamma": 0.1}}, None, "gamma is unknown here"),
        ({"image_size": [3]}, None, "two whole numbers, [height, width],"),
        ({}, "lion", "model_definition.optimizer: type is 'lion'; one of adam"),
        ({}, {"type": "adam", "momentum": 0.9}, "momentum is unknown here; known: learning_rate"),
        ({}, {"type": "sgd", "nesterov": True}, "nesterov needs a momentum above 0"),
        ({}, 3, "optimizer is a name, or an object"),
    ],
)
def test_a_wrong_option_is_named(
    hyperparameters: dict[str, Any], optimizer: Any, text: str
) -> None:
    with pytest.raises(JobFault) as caught:
        parse(hyperparameters, optimizer)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ({"type": "constant"}, [1, 1, 1, 1, 1]),
        ({"type": "step", "step_size": 2, "gamma": 0.5}, [1, 1, 0.5, 0.5, 0.25]),
        ({"type": "exponential", "gamma": 0.5}, [1, 0.5, 0.25, 0.125, 0.0625]),
        ({"type": "linear", "minimum": 0.2}, [1, 0.8, 0.6, 0.4, 0.2]),
        ({"type": "cosine", "minimum": 0.5}, [1, 0.927, 0.75, 0.573, 0.5]),
        ({"type": "constant", "warmup_epochs": 3}, [0.25, 0.5, 0.75, 1, 1]),
    ],
)
def test_the_course_of_the_learning_rate(schedule: dict[str, Any], expected: list[float]) -> None:
    made = Schedule(schedule_options(schedule), 5)
    assert [made.share(epoch) for epoch in range(5)] == pytest.approx(expected, abs=1e-3)


def test_a_plateau_remembers_and_goes_on_from_its_state() -> None:
    options = schedule_options({"type": "plateau", "gamma": 0.5, "patience": 1, "minimum": 0.2})
    one, shares = Schedule(options, 100), []
    for epoch, loss in enumerate([3.0, 2.0, 2.0, 2.0, 2.5, 2.5, 2.0, 2.0, 2.0]):
        one.observe(loss)
        state, one = one.state(), Schedule(options, 100)
        one.restore(state)
        shares.append(one.share(epoch))
    assert shares == [1, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.2, 0.2]


def watched(values: list[float], **options: Any) -> Stopping:
    stopping = Stopping(EarlyStopping(**options), has_held_out=True)
    for epoch, value in enumerate(values, 1):
        stopping.observe(epoch, {"val_loss": value, "val_accuracy": value})
    return stopping


def test_early_stopping_waits_for_something_better() -> None:
    assert not watched([3, 2, 2.5], patience=2).over
    over = watched([3, 2, 2.5, 2.1], patience=2)
    assert over.over
    assert (over.best, over.best_epoch) == (2, 2)
    assert watched([3, 2.95, 2.9], patience=2, min_delta=0.2).over
    assert watched([0.1, 0.5, 0.4, 0.3], metric="val_accuracy", patience=2).best == 0.5
    assert watched([math.nan, math.nan], patience=2).over


def test_a_metric_that_is_not_measured_is_named() -> None:
    with pytest.raises(JobFault, match="metric 'val_f1' is not measured; one of val_loss"):
        watched([1], metric="val_f1")


def test_a_job_is_read_from_the_argument_or_the_environment() -> None:
    assert encoded_config(["--job-config=a"], {"CYXWIZ_JOB_CONFIG": "b"}) == "a"
    assert encoded_config([], {"CYXWIZ_JOB_CONFIG": "b"}) == "b"
    for arguments, text in (
        (["--config=a"], "unknown argument '--config=a'"),
        ([], "no job: give"),
    ):
        with pytest.raises(JobFault, match=text):
            encoded_config(arguments, {})
    assert decode('{"a": 1}') == {"a": 1}
    assert decode("eyJhIjogMX0=") == {"a": 1}


def test_without_a_seed_all_attempts_of_a_job_have_the_same() -> None:
    config = {"model_definition": {"layers": [{"type": "ReLU"}]}, "dataset_uri": "builtin:iris"}
    first, again = (job_spec({**config, "job_id": "a"}) for _ in range(2))
    assert first.seed == again.seed != job_spec({**config, "job_id": "b"}).seed
    assert not first.seeded
    assert job_spec({**config, "seed": 0}).seed == 0
