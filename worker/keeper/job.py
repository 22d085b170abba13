"""Forks a native job: what happens between the keeper's fork and the job's first instruction.

Whatever can be made ready before the fork is: each page of memory that the child writes to is
copied first, and most of what a fork costs is that.
"""

# No pathlib here: its import costs each slot a megabyte.
# ruff: noqa: PTH208

from __future__ import annotations

import contextlib
import os
import resource
import signal

from worker.keeper import prctl, protocol
from worker.keeper.cpus import affinity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from worker.keeper.protocol import Spec

_MIB = 1 << 20
_OOM_SCORE = b"500"
_DATA_SLACK = 1 << 30

IGNORED = frozenset(
    getattr(signal, name)
    for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGTSTP")
    if hasattr(signal, name)
)
"""What a keeper ignores: these are for jobs, and it must outlast them."""

# Dispositions that a job must not inherit: the keeper's, Python's, and what this process itself
# was started with (a daemon's parent may ignore anything).
_CHANGED = (
    {number for number in signal.valid_signals() if signal.getsignal(number) is not signal.SIG_DFL}
    | IGNORED
    | {signal.SIGCHLD}
) - {signal.SIGKILL, signal.SIGSTOP}


class Started:
    """A forked job, seen from the keeper. All descriptors are non-blocking read ends."""

    __slots__ = ("failure", "pid", "streams")

    def __init__(self, pid: int, streams: list[int], failure: int) -> None:
        self.pid = pid
        self.streams = streams
        """stdout, stderr."""
        self.failure = failure
        """EOF once the program runs; before that, why it does not."""


def launch(spec: Spec, leases: list[int]) -> Started:
    """Fork the job. Raises OSError if there is no process or descriptor to be had.

    A program that cannot be executed is told through ``failure``.
    """
    pipes: list[tuple[int, int]] = []
    try:
        pipes.extend(os.pipe2(os.O_CLOEXEC) for _ in range(protocol.STREAMS + 1))
        pid = fork(spec, [write for _, write in pipes], leases)
    except OSError:
        for read, write in pipes:
            os.close(read)
            os.close(write)
        raise
    for read, write in pipes:
        os.close(write)
        os.set_blocking(read, False)
    reads = [read for read, _ in pipes]
    return Started(pid, reads[: protocol.STREAMS], reads[protocol.STREAMS])


def fork(spec: Spec, writes: list[int], leases: list[int]) -> int:
    """Fork a process that becomes what ``spec`` says; its pid. Raises OSError.

    ``writes``: its stdout and stderr, and where it says why the program cannot be executed.
    """
    cpus = affinity(spec["slot"], spec["cpu_cores"], sorted(os.sched_getaffinity(0)))
    keeper = os.getpid()
    spec["env"][protocol.ATTEMPT_VARIABLE] = f"{spec['job_id']}~{spec['fence']}"
    spec["env"][protocol.MARKER] = spec["state"]
    for lease in leases:
        os.set_inheritable(lease, True)  # a survivor keeps them held
    highest = max(map(int, os.listdir("/proc/self/fd")))
    # A signal that comes before the job has its own dispositions waits for them; while this
    # process's hold, which ignore it, it would be lost.
    signal.pthread_sigmask(signal.SIG_BLOCK, IGNORED)
    try:
        pid = os.fork()
        if pid == 0:
            _become(spec, keeper, writes, sorted({*leases, writes[-1]}), highest, cpus)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
    return pid


def _become(
    spec: Spec,
    keeper: int,
    writes: list[int],
    kept: list[int],
    highest: int,
    cpus: set[int] | None,
) -> NoReturn:
    """``kept``: descriptors beside the standard streams; ``highest``: of all that are open."""
    failure = writes[protocol.STREAMS]
    step = "prepare the process"
    try:
        os.setsid()
        prctl.die_with_parent(signal.SIGKILL)
        if os.getppid() != keeper:  # it ended before that could tell: nobody would hold the grant
            os._exit(127)
        signal.set_wakeup_fd(-1)
        for number in _CHANGED:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.umask(0o077)
        if cpus:
            os.sched_setaffinity(0, cpus)
        _score_for_oom()
        _limit(spec)
        prctl.no_new_privileges()
        _arrange_descriptors(writes, kept, highest)
        step = f"enter {spec['scratch']}"
        os.chdir(spec["scratch"])
        step = f"execute {spec['argv'][0]}"
        os.execvpe(spec["argv"][0], spec["argv"], spec["env"])  # noqa: S606 - no shell
    except BaseException as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        with contextlib.suppress(OSError):
            os.write(failure, f"cannot {step}: {reason}".encode(errors="replace")[:4000])
    finally:
        os._exit(127)


def _arrange_descriptors(writes: list[int], kept: list[int], highest: int) -> None:
    """Standard streams, those that are kept, and nothing else."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(writes[0], 1)
    os.dup2(writes[1], 2)
    start = 3
    for one in kept:
        os.closerange(start, one)
        start = one + 1
    os.closerange(start, max(highest, nothing) + 1)


def _score_for_oom() -> None:
    """Where the host runs out of memory, the job goes before what looks after it."""
    with contextlib.suppress(OSError):
        fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        try:
            os.write(fd, _OOM_SCORE)
        finally:
            os.close(fd)


def _limit(spec: Spec) -> None:
    _lower(resource.RLIMIT_CORE, 0)
    if spec["nofile"]:
        _lower(resource.RLIMIT_NOFILE, spec["nofile"])
    if spec["output_mb"]:
        # one more, so that what is over the cap is seen to be
        _lower(resource.RLIMIT_FSIZE, (spec["output_mb"] + 1) * _MIB)
    if spec["memory_mb"] and spec["limit_data"]:
        # The watchdog is what enforces memory, by what is resident. This only bounds what one
        # process can take between two looks; it counts what is reserved and never touched (thread
        # stacks, arenas), hence the room.
        _lower(resource.RLIMIT_DATA, 2 * spec["memory_mb"] * _MIB + _DATA_SLACK)


def _lower(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(kind, (value, value))
