"""Forks a native job: what happens between the keeper's fork and the job's first instruction.

Whatever can be made ready before the fork is, and what is left is said in as few calls as can be:
each page of memory that the child touches costs a fault, and one that it writes to is copied. That
is most of what a fork costs. So signals are set by the C module beneath `signal`, which makes no
enumerations of them.
"""

# No pathlib here: its import costs each slot a megabyte.
# ruff: noqa: PTH208

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # typeshed has none: see above
import contextlib
import os
import resource
import select
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
_CHANGED = tuple(
    int(number)
    for number in (
        {one for one in signal.valid_signals() if signal.getsignal(one) is not signal.SIG_DFL}
        | IGNORED
        | {signal.SIGCHLD}
    )
    - {signal.SIGKILL, signal.SIGSTOP}
)
_BLOCKED = frozenset(map(int, IGNORED))
_KILL = int(signal.SIGKILL)
_EXECUTES_WITHIN_MS = 20
"""So long a keeper waits until the job's program runs: by then the two share no page of memory any
more, so that what the keeper writes to next is its own again and need not be copied."""


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
    executed = select.poll()
    executed.register(reads[protocol.STREAMS], select.POLLIN)
    executed.poll(_EXECUTES_WITHIN_MS)
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
    nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    limits = _limits(spec)
    # A signal that comes before the job has its own dispositions waits for them; while this
    # process's hold, which ignore it, it would be lost.
    _signal.pthread_sigmask(_signal.SIG_BLOCK, _BLOCKED)
    try:
        pid = os.fork()
        if pid == 0:
            kept = sorted({*leases, writes[-1]})
            _become(spec, keeper, (nothing, *writes), kept, highest, cpus, limits)
    finally:
        _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
        os.close(nothing)
    return pid


def _become(
    spec: Spec,
    keeper: int,
    streams: tuple[int, ...],
    kept: list[int],
    highest: int,
    cpus: set[int] | None,
    limits: list[tuple[int, int]],
) -> NoReturn:
    """``streams``: its stdin, stdout and stderr, and where to say why it cannot be. ``kept``:
    descriptors beside them; ``highest``: of all that are open. ``limits``: see `_limits`."""
    failure = streams[3]
    step = "prepare the process"
    try:
        os.setsid()
        prctl.die_with_parent(_KILL)
        if os.getppid() != keeper:  # it ended before that could tell: nobody would hold the grant
            os._exit(127)
        _signal.set_wakeup_fd(-1)
        for number in _CHANGED:
            _signal.signal(number, _signal.SIG_DFL)
        _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
        os.umask(0o077)
        if cpus:
            os.sched_setaffinity(0, cpus)
        _score_for_oom()
        for kind, value in limits:
            resource.setrlimit(kind, (value, value))
        prctl.no_new_privileges()
        _arrange_descriptors(streams, kept, highest)
        step = f"enter {spec['scratch']}"
        os.chdir(spec["scratch"])
        step = f"execute {spec['argv'][0]}"
        if "/" in spec["argv"][0]:
            os.execve(spec["argv"][0], spec["argv"], spec["env"])  # noqa: S606 - no shell
        os.execvpe(spec["argv"][0], spec["argv"], spec["env"])  # noqa: S606 - no shell
    except BaseException as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        with contextlib.suppress(OSError):
            os.write(failure, f"cannot {step}: {reason}".encode(errors="replace")[:4000])
    finally:
        os._exit(127)


def _arrange_descriptors(streams: tuple[int, ...], kept: list[int], highest: int) -> None:
    """Standard streams, those that are kept, and nothing else."""
    os.dup2(streams[0], 0)
    os.dup2(streams[1], 1)
    os.dup2(streams[2], 2)
    start = 3
    for one in kept:
        os.closerange(start, one)
        start = one + 1
    os.closerange(start, highest + 1)


def _score_for_oom() -> None:
    """Where the host runs out of memory, the job goes before what looks after it."""
    try:
        fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY)  # closed with all that is not kept
        os.write(fd, _OOM_SCORE)
        os.close(fd)
    except OSError:
        pass


def _limits(spec: Spec) -> list[tuple[int, int]]:
    """The limits of one process, by `resource`: both, the soft and the hard one."""
    found = [(resource.RLIMIT_CORE, 0)]
    if spec["nofile"]:
        found.append((resource.RLIMIT_NOFILE, spec["nofile"]))
    if spec["output_mb"]:
        # one more, so that what is over the cap is seen to be
        found.append((resource.RLIMIT_FSIZE, (spec["output_mb"] + 1) * _MIB))
    if spec["memory_mb"] and spec["limit_data"]:
        # The watchdog is what enforces memory, by what is resident. This only bounds what one
        # process can take between two looks; it counts what is reserved and never touched (thread
        # stacks, arenas), hence the room.
        found.append((resource.RLIMIT_DATA, 2 * spec["memory_mb"] * _MIB + _DATA_SLACK))
    return [(kind, _at_most(kind, value)) for kind, value in found]


def _at_most(kind: int, value: int) -> int:
    hard = resource.getrlimit(kind)[1]
    return value if hard == resource.RLIM_INFINITY else min(value, hard)
