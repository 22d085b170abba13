"""`JobConfig`: everything that a producer says about a job.

The same configuration always gives the same bytes (`JobConfig.canonical`): keys sorted, what
equals its default left out. So a default is a promise, and never changes.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Final, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from tasks import jsonvalue
from tasks.choices import Device, JobType, Network, Priority, Sandbox
from tasks.errors import InvalidJob
from tasks.job_faults import invalid_job, shown
from tasks.job_rules import (
    RESERVED_ENV,
    check_args,
    check_command,
    check_dataset,
    check_env,
    check_expires,
    check_hyperparameters,
    check_labels,
    check_plain,
    check_secrets,
    check_version_range,
    cross_faults,
)
from tasks.model import ModelDefinition

JOB_ID_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
_USER_PATTERN: Final = r"^([A-Za-z0-9][A-Za-z0-9._@+-]{0,127})?$"
_POOL_PATTERN: Final = r"^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?$"
_IMAGE_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._/:@-]{0,511}$"

_YEAR_S: Final = 366 * 24 * 3600.0
_MOST_MB: Final = 2**24
"""16 TiB: above it somebody has counted in bytes."""
_LEAST_MB: Final = 16
"""With less no program starts, and engines refuse it."""

Megabytes = Annotated[int, Field(ge=1, le=_MOST_MB)]
Seconds = Annotated[float, Field(gt=0, le=_YEAR_S)]


def is_job_id(text: str) -> bool:
    """Whether a job may be called so. One is safe as the name of a file, and as part of a URL."""
    return re.fullmatch(JOB_ID_PATTERN, text) is not None


class JobConfig(BaseModel):
    """A job, as it is submitted. Frozen and flat; unknown fields are refused.

    Use `parse`, which raises `InvalidJob`. The descriptions say what is right: error messages
    quote them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    # identity
    job_id: str | None = Field(
        None,
        pattern=JOB_ID_PATTERN,
        description="1 to 128 of A-Z, a-z, 0-9, '.', '_' and '-', beginning with a letter or "
        "digit; left out: the task's id",
    )
    job_type: JobType = Field(
        JobType.TRAINING,
        strict=False,
        description="training, evaluation, inference or preprocessing",
    )
    priority: Priority = Field(
        Priority.NORMAL, strict=False, description="low, normal, high or critical"
    )
    user_id: str = Field(
        "",
        pattern=_USER_PATTERN,
        description="at most 128 of A-Z, a-z, 0-9 and '._@+-', beginning with a letter or digit",
    )
    labels: dict[str, str] = Field(
        default_factory=dict,
        description="at most 64; keys of at most 63 of A-Z, a-z, 0-9 and '._/-', text values of "
        "at most 256 characters",
    )

    # what to run: exactly one of model_definition, script and command
    model_definition: ModelDefinition | None = Field(
        None, description='an object such as {"layers": [{"type": "Dense", "units": 64}]}'
    )
    script: str | None = Field(
        None,
        min_length=1,
        max_length=1024,
        description="the path of the script inside code_uri, such as train.py",
    )
    code_uri: str | None = Field(
        None, min_length=1, max_length=4096, description="the URL of the script's code"
    )
    args: tuple[str, ...] = Field(
        (),
        strict=False,
        description='a list of texts that the script is called with, such as ["--lr", "0.1"]',
    )
    command: tuple[str, ...] | None = Field(
        None,
        strict=False,
        description='a list of texts, program first, such as ["python", "-c", "print(1)"]',
    )
    hyperparameters: dict[str, Any] = Field(
        default_factory=dict,
        description="an object of at most 256 JSON values; learning_rate, if given, above 0",
    )
    epochs: int = Field(
        1,
        ge=1,
        le=1_000_000,
        description="a whole number from 1 to 1000000: how often all data are seen",
    )
    batch_size: int = Field(
        32, ge=1, le=10_000_000, description="a whole number from 1 to 10000000: samples a step"
    )
    seed: int | None = Field(
        None, ge=0, le=2**32 - 1, description="a whole number from 0 to 4294967295"
    )
    env: dict[str, str] = Field(
        default_factory=dict,
        description="at most 256 variables with text values; names of A-Z, a-z, 0-9 and '_', none "
        f"that begins with {', '.join(RESERVED_ENV[:-1])} or {RESERVED_ENV[-1]}",
    )

    # data
    dataset_uri: str | None = Field(
        None,
        max_length=4096,
        description="builtin:digits, file:///absolute/path, or another URL with its scheme",
    )

    # needs
    required_device: Device = Field(Device.ANY, strict=False, description="cpu, cuda, rocm or any")
    gpus: int | None = Field(
        None, ge=1, le=64, description="a whole number from 1 to 64, for cuda and rocm only"
    )
    gpu_memory_mb: Megabytes | None = Field(
        None, description="MiB of each GPU, a whole number of at least 1, for cuda and rocm only"
    )
    memory_mb: Megabytes | None = Field(
        None, ge=_LEAST_MB, description="MiB of host memory, a whole number from 16 to 16777216"
    )
    cpu_cores: float | None = Field(
        None, ge=0.01, le=1024, description="a number from 0.01 to 1024"
    )
    shm_size_mb: Megabytes | None = Field(
        None, description="MiB of /dev/shm, a whole number from 1 to 16777216"
    )
    pool: str = Field(
        "",
        pattern=_POOL_PATTERN,
        description="at most 63 of a-z, 0-9 and '-', beginning and ending with a letter or digit",
    )

    # image
    image: str | None = Field(
        None, pattern=_IMAGE_PATTERN, description="an image's reference, such as name:tag"
    )
    image_version: str | None = Field(
        None, max_length=256, description="a version range, such as '>=1.2,<2' or '~=1.4'"
    )

    # trust
    sandbox: Sandbox = Field(
        Sandbox.REQUIRED, strict=False, description="required, preferred, none or gvisor"
    )
    network: Network = Field(Network.NONE, strict=False, description="none or bridge")
    secrets: tuple[str, ...] = Field(
        (),
        strict=False,
        description="a list of at most 32 names of secrets, each once; never their values",
    )
    signature: str | None = Field(
        None, min_length=1, max_length=8192, description="the text that signing gave"
    )

    # time
    timeout_seconds: Seconds | None = Field(
        None, description="seconds above 0, at most 366 days, that an attempt may take"
    )
    stall_timeout_seconds: Seconds | None = Field(
        None, description="seconds above 0, at most 366 days, that an attempt may be silent"
    )
    expires: Seconds | str | None = Field(
        None,
        description="seconds from submission (above 0, at most 366 days), or a time with its zone "
        "such as 2030-01-31T12:00:00Z: not started by then, the job fails",
    )
    estimated_duration: Seconds | None = Field(
        None, description="seconds above 0, at most 366 days"
    )

    # recovery
    max_attempts: int = Field(3, ge=1, le=100, description="a whole number from 1 to 100")
    checkpoint_every: int = Field(
        1,
        ge=0,
        le=1_000_000,
        description="a whole number of epochs; 0: only on SIGTERM and SIGUSR1",
    )

    _labels = field_validator("labels")(check_labels)
    _args = field_validator("args")(check_args)
    _command = field_validator("command")(check_command)
    _hyperparameters = field_validator("hyperparameters")(check_hyperparameters)
    _env = field_validator("env")(check_env)
    _dataset = field_validator("dataset_uri")(check_dataset)
    _plain = field_validator("script", "code_uri", "signature")(check_plain)
    _version = field_validator("image_version")(check_version_range)
    _secrets = field_validator("secrets")(check_secrets)
    _expires = field_validator("expires")(check_expires)

    @model_validator(mode="after")
    def _check_across(self) -> Self:
        found = cross_faults(self)
        size = len(self.canonical())
        if size > jsonvalue.MOST_BYTES:
            found.append(
                f"the job: {size} bytes of JSON; at most {jsonvalue.MOST_BYTES}: put what is "
                "large into code_uri or dataset_uri"
            )
        if found:
            raise ValueError("\n".join(found))
        return self

    @property
    def width(self) -> int:
        """How many GPUs the job gets: 0 for cpu and any, else ``gpus`` or 1."""
        return (self.gpus or 1) if self.required_device.is_gpu else 0

    @classmethod
    def parse(cls, value: object) -> JobConfig:
        """Validate a dict, a JobConfig or JSON text.

        Raises InvalidJob: a line for each field that is wrong, with what would be right.
        """
        if isinstance(value, JobConfig):  # its dicts may have been changed since
            value = value.model_dump(exclude_unset=True)
        if isinstance(value, str | bytes | bytearray):
            try:
                value = jsonvalue.loads(value)
            except ValueError as error:
                raise InvalidJob(f"the job is wrong:\n  {error}") from None
        if not isinstance(value, Mapping):
            raise InvalidJob(
                "a job is a dict, a JobConfig or a JSON object, "
                f"not {type(value).__name__} (got {shown(value)})"
            )
        wrong = list(jsonvalue.faults(value))
        if wrong:
            raise InvalidJob(
                "the job is wrong:\n"
                + "\n".join(f"  {path or 'the job'}: {what}" for path, what in wrong[:20])
            )
        try:
            return cls.model_validate_json(json.dumps(jsonvalue.plain(value)))
        except ValidationError as error:
            raise invalid_job(error, cls) from None

    def with_job_id(self, job_id: str) -> JobConfig:
        """The same job under ``job_id``. Raises InvalidJob if that can be no job's id."""
        if is_job_id(job_id):
            made = self.model_copy(update={"job_id": job_id})
            if len(made.canonical()) <= jsonvalue.MOST_BYTES:
                return made
        return JobConfig.parse({**self.to_wire(), "job_id": job_id})  # which says what is wrong

    def to_wire(self) -> dict[str, Any]:
        """The configuration as JSON values, without what equals its default."""
        return self.model_dump(mode="json", exclude_defaults=True)

    def canonical(self) -> str:
        """The configuration's one form: sorted keys, no spaces, ASCII; ``job_id`` included."""
        return jsonvalue.canonical(self.to_wire())

    def digest(self) -> str:
        """SHA-256 of `canonical`, in hex."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()

    def expires_at(self, submitted: float) -> float | None:
        """When the job expires, seconds since the epoch, if submitted at ``submitted``."""
        if self.expires is None:
            return None
        if isinstance(self.expires, str):
            return datetime.fromisoformat(self.expires).timestamp()
        return submitted + self.expires
