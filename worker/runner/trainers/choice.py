"""Which trainer a job gets."""

from __future__ import annotations

from worker.runner.faults import JobFault, MissingPackage
from worker.runner.lazy import installed
from worker.runner.trainers.base import Plan, Trainer


def choose(wanted: str) -> str:
    """``sklearn``, for what ``hyperparameters.trainer`` says. Raises MissingPackage, JobFault."""
    if wanted == "pytorch":
        raise JobFault("hyperparameters: trainer pytorch is not there yet")
    if wanted == "sklearn" or installed("sklearn"):
        return "sklearn"
    raise MissingPackage(
        "a model_definition needs scikit-learn, and this environment does not have it; "
        "pip install scikit-learn, or choose an image that has it"
    )


def make(name: str, plan: Plan) -> Trainer:
    """The trainer. Raises JobFault: it cannot express the model; MissingPackage."""
    from worker.runner.trainers.sklearn import SklearnTrainer

    return SklearnTrainer(plan)
