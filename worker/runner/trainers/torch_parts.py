"""What surrounds a PyTorch model: its device, optimizer and loss."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from worker.runner.faults import NoDevice
from worker.runner.lazy import torch
from worker.runner.options import Optimizer


def make_repeatable(device: Any) -> None:
    """The same seed gives the same weights on the same kind of device; some of it is slower."""
    if device.type == "cpu":
        return  # it is so anyhow, and asking for it loads PyTorch's compiler, which takes seconds
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    torch.backends.cudnn.benchmark = False
    # an operation that has no repeatable form is said in the log, and done all the same
    torch.use_deterministic_algorithms(True, warn_only=True)


def device_for(wanted: str) -> Any:
    """The device that a job gets. Raises NoDevice: it must have a GPU, and there is none.

    ROCm's GPUs are called cuda by PyTorch, too.
    """
    if wanted == "cpu":
        return torch.device("cpu")
    kind = "rocm" if torch.version.hip else "cuda"
    if torch.cuda.is_available() and wanted in ("any", kind):
        _keep_to_share()
        return torch.device("cuda", 0)
    if wanted == "any":
        return torch.device("cpu")
    built = torch.version.hip or torch.version.cuda
    raise NoDevice(
        f"required_device is {wanted}, and PyTorch {torch.__version__} sees no such GPU "
        f"(it was built for {kind + ' ' + built if built else 'CPUs only'})"
    )


def computes_bfloat16() -> bool:
    """Whether the GPU itself computes in bfloat16; where it does not, float16 is much faster."""
    try:
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    except TypeError:  # an older PyTorch, which never counts what is only emulated
        return bool(torch.cuda.is_bf16_supported())


def _keep_to_share() -> None:
    """Of a GPU that the job shares: PyTorch refuses to take more of it than its part."""
    share = int(os.environ.get("CYXWIZ_GPU_MEMORY_MB") or 0) << 20
    total = torch.cuda.get_device_properties(0).total_memory
    if 0 < share < total:
        torch.cuda.set_per_process_memory_fraction(share / total, 0)


def make_optimizer(optimizer: Optimizer, parameters: list[Any]) -> Any:
    """PyTorch's optimizer of that kind."""
    options = dict(optimizer.options)
    common = {"lr": optimizer.rate, "weight_decay": options.pop("weight_decay")}
    match optimizer.kind:
        case "adam" | "adamw":
            kind = torch.optim.Adam if optimizer.kind == "adam" else torch.optim.AdamW
            betas = (options["beta_1"], options["beta_2"])
            return kind(parameters, betas=betas, eps=options["epsilon"], **common)
        case "rmsprop":
            return torch.optim.RMSprop(
                parameters,
                alpha=options["alpha"],
                momentum=options["momentum"],
                eps=options["epsilon"],
                **common,
            )
        case _:
            return torch.optim.SGD(
                parameters, momentum=options["momentum"], nesterov=options["nesterov"], **common
            )


def make_loss(loss: str) -> Callable[[Any, Any], Any]:
    """The mean loss of a batch. Softmax and Sigmoid are inside, where they belong to it."""
    functions = torch.nn.functional
    match loss:
        case "cross_entropy":
            return functions.cross_entropy  # type: ignore[no-any-return]  # PyTorch is untyped here
        case "bce":
            return lambda made, y: functions.binary_cross_entropy_with_logits(
                made[:, 0], y.to(made.dtype)
            )
        case "mae":
            return functions.l1_loss  # type: ignore[no-any-return]  # as above
        case _:
            return functions.mse_loss  # type: ignore[no-any-return]  # as above


def optimizer_tensors(optimizer: Any) -> dict[str, Any]:
    """An optimizer's state as named tensors; copies on the host."""
    return {
        f"optimizer.{number}.{name}": torch.as_tensor(value).detach().cpu().clone()
        for number, of_one in optimizer.state_dict()["state"].items()
        for name, value in of_one.items()
        if value is not None
    }


def restore_optimizer(optimizer: Any, tensors: dict[str, Any]) -> None:
    """Go on from `optimizer_tensors`. Raises ValueError: they are of another model."""
    state: dict[int, dict[str, Any]] = {}
    for key, value in tensors.items():
        _, number, name = key.split(".", 2)
        state.setdefault(int(number), {})[name] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
