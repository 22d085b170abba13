"""Which trainer a job gets: PyTorch where it is installed, else scikit-learn."""

from __future__ import annotations

from worker.runner.faults import EnvironmentLacks, NoDevice
from worker.runner.lazy import installed
from worker.runner.trainers.base import Plan, Trainer


def choose(wanted: str) -> str:
    """``pytorch`` or ``sklearn``, for what ``hyperparameters.trainer`` says.

    Raises EnvironmentLacks.
    """
    if wanted != "auto":
        return wanted
    if installed("torch"):
        return "pytorch"
    if installed("sklearn"):
        return "sklearn"
    raise EnvironmentLacks(
        "a model_definition needs PyTorch or scikit-learn, and this environment has neither; "
        "pip install torch or scikit-learn, or choose an image that has it"
    )


def make(name: str, plan: Plan) -> Trainer:
    """The trainer. Raises JobFault: it cannot express the model; EnvironmentLacks, NoDevice."""
    if name == "pytorch":
        from worker.runner.trainers.pytorch import TorchTrainer

        return TorchTrainer(plan)
    if plan.device not in ("cpu", "any"):
        raise NoDevice(
            f"required_device is {plan.device}, and scikit-learn computes on the CPU only; "
            "choose an image with PyTorch, or required_device: cpu"
        )
    from worker.runner.trainers.sklearn import SklearnTrainer

    return SklearnTrainer(plan)
