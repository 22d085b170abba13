"""A job as the runner gets it: its configuration, and where its files lie."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from worker.runner.faults import JobFault
from worker.runner.fields import Fields, one_of, sizes, texts, whole

OPTION: Final = "--job-config="
VARIABLE: Final = "CYXWIZ_JOB_CONFIG"
_DEVICES: Final = ("cpu", "cuda", "rocm", "any")


@dataclass(frozen=True, kw_only=True, slots=True)
class JobSpec:
    """What the runner reads of a job's configuration. Everything else in it is for others."""

    job_id: str
    layers: tuple[Mapping[str, Any], ...]
    optimizer: Any
    """A name, an object or None."""
    loss: str | None
    input_shape: tuple[int, ...] | None
    metrics: tuple[str, ...]
    hyperparameters: Mapping[str, Any]
    epochs: int
    batch_size: int
    seed: int
    """The job's, or one that its id gives: attempts of one job must agree on it."""
    seeded: bool
    """Whether the job itself named a seed: then the run is made repeatable."""
    dataset_uri: str
    required_device: str
    checkpoint_every: int
    """Epochs; 0: only when asked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Places:
    """Where the job's files lie."""

    data: Path | None
    checkpoints: Path
    output: Path


def encoded_config(arguments: Sequence[str], environ: Mapping[str, str]) -> str:
    """The configuration's text, from the argument or else the environment. Raises JobFault."""
    for argument in arguments:
        if not argument.startswith(OPTION):
            raise JobFault(f"unknown argument {argument[:80]!r}; {OPTION}BASE64 is all there is")
    found = [argument.removeprefix(OPTION) for argument in arguments] or [environ.get(VARIABLE, "")]
    if not found[-1]:
        raise JobFault(f"no job: give it as {OPTION}… or in {VARIABLE}, as base64 of a JSON object")
    return found[-1]


def decode(encoded: str) -> dict[str, Any]:
    """The configuration: base64 of JSON, or the JSON itself. Raises JobFault."""
    text = encoded.strip()
    try:
        if not text.startswith("{"):
            text = base64.b64decode(text, validate=True).decode()
        config = json.loads(text)
    except (binascii.Error, ValueError, RecursionError) as error:
        raise JobFault(f"the job's configuration is no base64 of a JSON object: {error}") from None
    if not isinstance(config, dict):
        raise JobFault("the job's configuration is no base64 of a JSON object")
    return config


def job_spec(config: Mapping[str, Any]) -> JobSpec:
    """The job in a configuration. Raises JobFault."""
    definition = config.get("model_definition")
    if not isinstance(definition, dict):
        raise JobFault(
            "model_definition: is missing; the built-in runner trains nothing else "
            "(a script or a command is run by the node itself)"
        )
    job_id = config.get("job_id") or os.environ.get("CYXWIZ_JOB_ID") or "job"
    model = Fields("model_definition", definition)
    layers = model.take("layers", _layers) or ()
    optimizer = model.take("optimizer", _anything)
    loss = model.take("loss", one_of("cross_entropy", "bce", "mse", "mae"))
    input_shape = model.take("input_shape", sizes)
    metrics = model.take("metrics", _names) or ()
    model.take("name", _anything)
    model.done()
    if not layers:
        raise JobFault("model_definition: layers is empty; at least one layer is needed")
    # only what is read here is checked: the node has checked the rest, and others read it
    job = Fields("the job", {name: config.get(name) for name in _READ})
    uri = job.take("dataset_uri", _uri)
    if not uri:
        raise JobFault(
            "dataset_uri: is missing; a model_definition needs data, such as builtin:digits"
        )
    seed = job.take("seed", whole(0, 2**32 - 1))
    return JobSpec(
        job_id=str(job_id),
        layers=layers,
        optimizer=optimizer,
        loss=loss,
        input_shape=input_shape,
        metrics=metrics,
        hyperparameters=job.take("hyperparameters", _object, {}),
        epochs=job.take("epochs", whole(), 1),
        batch_size=job.take("batch_size", whole(), 32),
        seed=_seed_of(str(job_id)) if seed is None else seed,
        seeded=seed is not None,
        dataset_uri=uri,
        required_device=job.take("required_device", one_of(*_DEVICES), "any"),
        checkpoint_every=job.take("checkpoint_every", whole(0), 1),
    )


_READ: Final = (
    "dataset_uri", "seed", "hyperparameters", "epochs", "batch_size", "required_device",
    "checkpoint_every",
)  # fmt: skip


def places(environ: Mapping[str, str]) -> Places:
    """A native job's own paths, else those of a container."""
    data = environ.get("CYXWIZ_DATA")
    mounted = Path("/job/data")
    return Places(
        data=Path(data) if data else mounted if mounted.exists() else None,
        checkpoints=Path(environ.get("CYXWIZ_CHECKPOINTS") or "/job/checkpoints"),
        output=Path(environ.get("CYXWIZ_OUTPUT") or "/job/output"),
    )


def shown(uri: str) -> str:
    """A URL without user, password, query and fragment, which may be secrets."""
    try:
        parts = urlsplit(uri)
    except ValueError:
        return uri.partition(":")[0] + ":…"
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _seed_of(job_id: str) -> int:
    return int.from_bytes(hashlib.sha256(job_id.encode()).digest()[:4], "big")


def _layers(value: Any) -> tuple[Mapping[str, Any], ...]:
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise ValueError('a list of objects such as {"type": "Dense", "units": 64}')
    return tuple(value)


def _object(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("an object")
    return value


def _uri(value: Any) -> str:
    if not isinstance(value, str) or ":" not in value:
        raise ValueError("a URL such as builtin:digits")
    return value


def _names(value: Any) -> tuple[str, ...]:
    return texts(value) if value else ()


def _anything(value: Any) -> Any:
    return value
