"""What a supervisor and a keeper say to each other, over an AF_UNIX SOCK_SEQPACKET connection.

One packet is one frame; its first byte says which. Offsets count the bytes of one stream from the
attempt's start; deadlines are seconds of ``time.monotonic()``, which all processes of a host share.
"""

from __future__ import annotations

import json
import struct
from enum import StrEnum

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Final, NotRequired, TypedDict

    class Container(TypedDict):
        """The container of an attempt, made and not yet started."""

        socket: str
        """The engine's."""
        api: str
        """The version of its API, such as 1.41."""
        id: str
        memory_mb: int
        """Its limit: evidence for how it ended. The engine keeps it."""
        cpus: int
        """How many CPUs its processes are to be kept to; 0: all."""
        pauses: bool
        """The engine can freeze it; else a passed deadline ends it."""
        metered: bool
        """Its control groups are its own, and say what it uses."""

    class Spec(TypedDict):
        """What a keeper is told at its start, through a memfd: it may exceed a packet's size."""

        job_id: str
        fence: int
        slot: str
        argv: list[str]
        env: dict[str, str]
        state: str
        scratch: str
        watched: list[str]
        """Directories that count against ``output_mb``."""
        memory_mb: int
        limit_data: bool
        """Also bound each process's private memory (False with GPUs: they map far more)."""
        cpu_cores: float
        pids: int
        nofile: int
        output_mb: int
        deadline: float
        abandon_after: float
        container: NotRequired[Container]
        """Where the job is a container: `argv`, `env` and the limits are the engine's affair."""

    class Hello(TypedDict):
        """The first frame to each supervisor that attaches."""

        keeper: int
        job: int
        paused: bool
        tether: NotRequired[int]
        """See `worker.keeper.tether.Tether.number`."""

    class Exit(TypedDict):
        """How the attempt ended: the fields of `worker.plan.ExitStatus`."""

        code: int | None
        signal: int | None
        cause: str | None
        oom: bool
        error: str
        cpu_seconds: float
        max_rss_mb: float
        wall_seconds: float


ATTEMPT_VARIABLE: Final = "CYXWIZ_ATTEMPT"
"""Environment variable of every process of a native attempt: ``JOB~FENCE``, for people."""

MARKER: Final = "CYXWIZ_ATTEMPT_STATE"
"""Environment variable by which a survivor is known: the attempt's state directory, resolved.

Not the attempt's name: two nodes of one host may be of two clusters that chose the same job_id.
"""

BESIDE_VARIABLE: Final = "CYXWIZ_COMMAND"
"""Environment variable of a command beside the job, by whose value is known what it has started."""

BESIDE_FDS: Final = 3
"""How many descriptors come with `BESIDE`."""

SPOOL_BYTES: Final = 1 << 20
"""What is kept of each stream until it is acknowledged, bytes."""

CHUNK_BYTES: Final = 1 << 16
"""The most data in one frame, bytes."""

STREAMS: Final = 2
"""0 is stdout, 1 is stderr."""

# keeper -> supervisor
HELLO: Final = ord("H")
DATA: Final = ord("D")
STATE: Final = ord("S")
EXIT: Final = ord("X")
FAILED: Final = ord("F")
RELEASED: Final = ord("R")
"""The last frame of an attempt whose keeper rests: its leases and its lock are free."""

# supervisor -> keeper
ACK: Final = ord("A")
BEAT: Final = ord("B")
COMMAND: Final = ord("C")
BESIDE: Final = ord("E")
"""Run a command beside a native job. With it come three descriptors: what its stdout and its stderr
go to, and a SOCK_SEQPACKET that says how it ends and whose other end's closing ends it."""

_DATA = struct.Struct("!BBQ")
_BEAT = struct.Struct("!Bd")
_STATE = struct.Struct("!B?")

FRAME_BYTES: Final = CHUNK_BYTES + _DATA.size
"""The largest frame."""


class Verb(StrEnum):
    """What a supervisor may ask for, beside acknowledging and beating."""

    STOP = "stop"
    FENCE = "fence"
    PAUSE = "pause"
    RESUME = "resume"
    SIGNAL = "signal"
    RELEASE = "release"
    """The attempt is dealt with: end whatever is left of it, then end."""
    REST = "rest"
    """The same, but wait for the next attempt, on this connection, in the place of ending."""


def data_head(stream: int, offset: int) -> bytes:
    """What goes before the data in a frame."""
    return _DATA.pack(DATA, stream, offset)


def data_frame(stream: int, offset: int, data: bytes) -> bytes:
    return data_head(stream, offset) + data


def parse_data(frame: memoryview) -> tuple[int, int, bytes]:
    """Stream, offset, data."""
    _, stream, offset = _DATA.unpack_from(frame)
    return stream, offset, bytes(frame[_DATA.size :])


def ack_frame(stream: int, offset: int) -> bytes:
    return _DATA.pack(ACK, stream, offset)


def parse_ack(frame: bytes) -> tuple[int, int]:
    _, stream, offset = _DATA.unpack(frame)
    return stream, offset


def beat_frame(deadline: float) -> bytes:
    return _BEAT.pack(BEAT, deadline)


def parse_beat(frame: bytes) -> float:
    deadline: float = _BEAT.unpack(frame)[1]
    return deadline


def state_frame(paused: bool) -> bytes:
    return _STATE.pack(STATE, paused)


def parse_state(frame: memoryview) -> bool:
    paused: bool = _STATE.unpack(frame)[1]
    return paused


def json_frame(kind: int, content: Mapping[str, Any]) -> bytes:
    return bytes((kind,)) + json.dumps(content).encode()


def parse_json(frame: bytes | memoryview) -> Any:
    return json.loads(bytes(frame[1:]))


def beside_frame(argv: list[str]) -> bytes:
    return json_frame(BESIDE, {"argv": argv})


def command_frame(verb: Verb, argument: float = 0) -> bytes:
    return json_frame(COMMAND, {"verb": verb, "argument": argument})
