"""The rules of `JobConfig` that types and bounds cannot say. Each raises ValueError, or lists."""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from tasks.jsonvalue import faults
from tasks.ladders import rung_for, rungs, sandbox_class

if TYPE_CHECKING:
    from tasks.job import JobConfig

_LABEL_KEY: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,62}")
_ENV_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,255}")
SECRET_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
_URL: Final = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]+):(?P<rest>.+)", re.DOTALL)
_BUILTIN: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")

# PEP 440, without its rarer spellings: release, then pre-, post- and dev-release
_RELEASE: Final = r"v?(?:\d+!)?\d+(?:\.\d+)*"
_SUFFIX: Final = r"(?:(?:a|b|rc)\d+)?(?:\.post\d+)?(?:\.dev\d+)?"
_LOCAL: Final = r"(?:\+[a-z0-9]+(?:[._-][a-z0-9]+)*)?"
_CLAUSE: Final = re.compile(
    rf"(?:==|!=)\s*(?:{_RELEASE}\.\*|{_RELEASE}{_SUFFIX}{_LOCAL})"
    rf"|(?:<=|>=|<|>)\s*{_RELEASE}{_SUFFIX}"
    rf"|~=\s*v?(?:\d+!)?\d+(?:\.\d+)+{_SUFFIX}",
    re.IGNORECASE | re.ASCII,
)

# What they set reaches the host's side of a container, or the node's own interpreter.
RESERVED_ENV: Final = (
    "NVIDIA_", "CUDA_", "HIP_", "ROCR_", "LD_", "PYTHON", "CYXWIZ_",
)  # fmt: skip


def _control(text: str) -> bool:
    return any(ord(char) < 32 or ord(char) == 127 for char in text)


def check_plain(text: str | None) -> str | None:
    """One line of text."""
    if text is not None and _control(text):
        raise ValueError("has control characters")
    return text


def check_labels(labels: dict[str, str]) -> dict[str, str]:
    """Keys as identifiers, values short."""
    if len(labels) > 64:
        raise ValueError(f"{len(labels)} labels")
    for key, value in labels.items():
        if not _LABEL_KEY.fullmatch(key):
            raise ValueError(f"the key {key[:80]!r} is not valid")
        if len(value) > 256 or _control(value):
            raise ValueError(f"the value of {key!r} is longer than 256 or has control characters")
    return labels


def check_command(command: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Something that can be executed."""
    if command is None:
        return None
    if not command or not command[0]:
        raise ValueError("names no program")
    return check_args(command)


def check_args(args: tuple[str, ...]) -> tuple[str, ...]:
    """What execve takes."""
    if len(args) > 4096:
        raise ValueError(f"{len(args)} arguments, more than 4096")
    if any("\0" in part for part in args):
        raise ValueError("an argument has a NUL character")
    return args


def check_hyperparameters(values: dict[str, Any]) -> dict[str, Any]:
    """Finite JSON; a learning rate that can be one."""
    if len(values) > 256:
        raise ValueError(f"{len(values)} hyperparameters")
    for path, wrong in faults(values):
        raise ValueError(f"{path}: {wrong}" if path else wrong)
    for key in values:
        if not key or len(key) > 128 or _control(key):
            raise ValueError(f"the key {key[:80]!r} is empty, too long or has control characters")
    rate = values.get("learning_rate", 1.0)
    if isinstance(rate, bool) or not isinstance(rate, int | float):
        raise ValueError(f"learning_rate is {rate!r}, no number")
    if rate <= 0:
        raise ValueError(f"learning_rate is {rate!r}, not above 0")
    return values


def check_env(env: dict[str, str]) -> dict[str, str]:
    """Valid names that are not the node's own; values that execve takes."""
    if len(env) > 256:
        raise ValueError(f"{len(env)} variables")
    for name, value in env.items():
        if not _ENV_NAME.fullmatch(name):
            raise ValueError(f"{name[:80]!r} is no variable's name")
        reserved = next((start for start in RESERVED_ENV if name.upper().startswith(start)), "")
        if reserved:
            raise ValueError(f"{name} is the node's to set ({reserved}…)")
        if "\0" in value or len(value) > 32_768:
            raise ValueError(f"the value of {name} has a NUL character or more than 32768")
    return env


def check_dataset(uri: str | None) -> str | None:
    """A URL with its scheme; whether it may be read is for the node to say."""
    if uri is None:
        return None
    if _control(uri):
        raise ValueError("has control characters")
    match = _URL.fullmatch(uri)
    if match is None:
        raise ValueError("is no URL with a scheme")
    if match["scheme"] == "builtin" and not _BUILTIN.fullmatch(match["rest"]):
        raise ValueError("names no builtin data set")
    return uri


def check_version_range(text: str | None) -> str | None:
    """Clauses of PEP 440, separated by commas."""
    if text is None:
        return None
    for clause in text.split(","):
        if not _CLAUSE.fullmatch(clause.strip()):
            raise ValueError(f"{clause.strip()!r} is no version clause")
    return text


def check_secrets(names: tuple[str, ...]) -> tuple[str, ...]:
    """Names, each once. A wrong one is not quoted: it might be the secret itself."""
    if len(names) > 32 or len(set(names)) != len(names):
        raise ValueError("more than 32, or one of them twice")
    if not all(SECRET_NAME.fullmatch(name) for name in names):
        raise ValueError("one of them is no name of A-Z, a-z, 0-9 and '_.-'")
    return names


def check_expires(value: float | str | None) -> float | str | None:
    """Stored as given. A time in the past is valid: the job was expired when submitted."""
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError("is no ISO 8601 time") from None
        if moment.tzinfo is None:
            raise ValueError("is a time without its zone")
    return value


def cross_faults(job: JobConfig) -> list[str]:
    """What is wrong between fields: lines of the form ``field: what is wrong; what is right``."""
    return [*_work_faults(job), *_need_faults(job)]


def _work_faults(job: JobConfig) -> list[str]:
    found = []
    ways = ("model_definition", "script", "command")
    given = [name for name in ways if getattr(job, name) is not None]
    if len(given) != 1:
        what = " and ".join(given) + " are given" if given else "none of them is given"
        found.append(f"{', '.join(ways)}: {what}; exactly one of the three says what to run")
    if job.script is not None and job.code_uri is None:
        found.append("code_uri: is missing; a script needs the URL of its code")
    if job.code_uri is not None and job.script is None:
        found.append("script: is missing; code_uri needs the path of the script in it")
    if job.args and job.script is None:
        hint = "; a command has its own" if job.command is not None else ""
        found.append(f"args: are those of a script, and there is none{hint}")
    if job.image is not None and job.image_version is not None:
        found.append("image_version: image is given, too; give one of the two")
    return found


def _need_faults(job: JobConfig) -> list[str]:
    found = []
    device = job.required_device
    if not device.is_gpu:
        found += [
            f"{name}: is for GPUs, and required_device is {device}; say cuda or rocm, "
            "or leave it out"
            for name in ("gpus", "gpu_memory_mb")
            if getattr(job, name) is not None
        ]
    name = "gpu_memory_mb" if device.is_gpu else "memory_mb"
    ask = getattr(job, name)
    sandbox = sandbox_class(job.sandbox, signed=job.signature is not None)
    if rung_for(device, sandbox, ask) is None:
        most = rungs(device, sandbox)[-1]
        hint = f"at most {most} with required_device {device} and sandbox {job.sandbox}"
        if device.value == "any":
            hint += "; a job that needs more says cpu, cuda or rocm"
        found.append(f"{name}: no queue serves so much (got {ask}); {hint}")
    return found
