"""What goes wrong with a container engine.

RuntimeUnavailable
└── EngineError             the engine answers with an error, or not at all
    ├── EngineMissing       no engine listens at the socket, or this user may not talk to it
    ├── NotFound            no such container or image
    ├── Conflict            the name is taken, or the container is in another state
    ├── ImageUnavailable    the image cannot be had here now
    ├── ImageForbidden      … and never will: the node's allow-list does not name it
    ├── SandboxUnavailable  the engine did not give what the sandbox promises
    └── DevicesUnavailable  … or the GPUs of the grant
"""

from __future__ import annotations

from typing import ClassVar

from tasks.errors import RuntimeUnavailable
from tasks.state import FailureReason


class EngineError(RuntimeUnavailable):
    """The engine answers with an error, or not at all."""

    reason: ClassVar[FailureReason] = FailureReason.ENGINE_ERROR
    """What a job that cannot run for it is told."""


class EngineMissing(EngineError):
    """No engine listens at the socket, or this user may not talk to it."""


class NotFound(EngineError):
    """No such container or image."""


class Conflict(EngineError):
    """The name is taken, or the container is in another state."""


class ImageUnavailable(EngineError):
    """The image cannot be had here now; another node may have it."""

    reason = FailureReason.IMAGE_UNAVAILABLE


class ImageForbidden(EngineError):
    """The node's allow-list does not name the image."""

    reason = FailureReason.IMAGE_UNAVAILABLE


class SandboxUnavailable(EngineError):
    """The engine did not give what the sandbox promises: nothing of the attempt is left."""

    reason = FailureReason.SANDBOX_UNAVAILABLE


class DevicesUnavailable(EngineError):
    """The engine cannot give a container the GPUs of its grant: nothing of the attempt is left."""

    reason = FailureReason.NO_DEVICE
