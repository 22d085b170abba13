"""Starts a native job: what happens between its keeper's call and the job's first instruction.

By posix_spawn, which runs no code of ours in the new process: a fork of this one costs more than
all else that a keeper does, as every page that either side touches is a fault and most are copied.
What posix_spawn cannot set is inherited: the umask, no new privileges, CPUs and soft limits, the
last two of which this process has only meanwhile. Hard limits, which only root could take back, are
put upon the process at once, and upon whatever it may have forked by then.
"""

# No pathlib here: its import costs each slot a megabyte.
# ruff: noqa: PTH110, PTH112

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal

from worker.keeper import cpus, procfs, protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from worker.keeper.protocol import Spec
    from worker.keeper.tether import Tether

_MIB = 1 << 20
_OOM_SCORE = b"500"
_DATA_SLACK = 1 << 30
_PASSES = 20
_DESCRIPTORS = 512
"""More than a keeper has: whose numbers are above the limit could not be passed on."""
_OF_THE_HOST = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE})
"""What is no fault of the program."""

IGNORED = frozenset(
    getattr(signal, name)
    for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGTSTP")
    if hasattr(signal, name)
)
"""What a keeper ignores: these are for jobs, and it must outlast them."""

# Dispositions that a job must not inherit: the keeper's, Python's, and what this process itself
# was started with (a daemon's parent may ignore anything).
_CHANGED = (
    {one for one in signal.valid_signals() if signal.getsignal(one) is not signal.SIG_DFL}
    | IGNORED
    | {signal.SIGCHLD}
) - {signal.SIGKILL, signal.SIGSTOP}


class CannotExecute(OSError):
    """There is no such program, or it is none. Its text says what was tried, and why not."""


class Started:
    """A started job, seen from the keeper."""

    __slots__ = ("pid", "streams")

    def __init__(self, pid: int, streams: list[int]) -> None:
        self.pid = pid
        self.streams = streams
        """stdout, stderr: non-blocking read ends."""


def launch(spec: Spec, leases: Sequence[int], tether: Tether) -> Started:
    """Start the job. Raises CannotExecute, and OSError where the host has no room for it."""
    pipes: list[tuple[int, int]] = []
    reads: list[int] = []
    try:
        pipes.extend(os.pipe2(os.O_CLOEXEC) for _ in range(protocol.STREAMS))
        pid = start(spec, [write for _, write in pipes], leases, tether)
        for read, _ in pipes:
            os.set_blocking(read, False)
            reads.append(read)
    finally:
        for read, write in pipes:
            os.close(write)
            if read not in reads:
                os.close(read)
    return Started(pid, reads)


def start(spec: Spec, streams: Sequence[int], leases: Sequence[int], tether: Tether) -> int:
    """Start a process that becomes what ``spec`` says, tied to this one; its pid.

    ``streams``: its stdout and stderr. Raises CannotExecute, and OSError where it could not
    be started or confined; then it is none.
    """
    spec["env"][protocol.ATTEMPT_VARIABLE] = f"{spec['job_id']}~{spec['fence']}"
    spec["env"][protocol.MARKER] = spec["state"]
    limits = _limits(spec)
    wanted = cpus.affinity(spec["slot"], spec["cpu_cores"], sorted(os.sched_getaffinity(0)))
    for lease in leases:
        os.set_inheritable(lease, True)  # a survivor keeps them held
    others = procfs.below(os.getpid())
    nothing, end = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC), -1
    try:
        end = tether.end()
        with _as_the_job(limits, wanted):
            pid = _spawn(spec, (nothing, *streams))
        try:
            tether.tie(end, pid)
            confine(pid, limits, others)
        except OSError:
            if not _is_over(pid):
                os.killpg(pid, signal.SIGKILL)
                raise
    finally:
        os.close(nothing)
        if end >= 0:
            os.close(end)
    return pid


@contextlib.contextmanager
def _as_the_job(limits: list[tuple[int, int]], wanted: set[int] | None) -> Iterator[None]:
    """This process has, within, what the job is to inherit. Raises OSError."""
    own = [(kind, resource.getrlimit(kind)) for kind, _ in limits]
    available = os.sched_getaffinity(0)
    try:
        for (kind, value), (_, (_, hard)) in zip(limits, own, strict=True):
            soft = max(value, _DESCRIPTORS) if kind == resource.RLIMIT_NOFILE else value
            resource.setrlimit(kind, (_at_most(kind, soft), hard))
        if wanted:
            os.sched_setaffinity(0, wanted)
        yield
    finally:
        for kind, both in own:
            resource.setrlimit(kind, both)
        if wanted:
            os.sched_setaffinity(0, available)


def _spawn(spec: Spec, streams: Sequence[int]) -> int:
    """``streams``: stdin, stdout, stderr. Whatever else this process has open is closed on exec."""
    argv, env = spec["argv"], spec["env"]
    doing = f"enter {spec['scratch']}"
    try:
        os.chdir(spec["scratch"])
        doing = f"execute {argv[0]}"
        return os.posix_spawn(
            _program(argv[0], env),
            argv,
            env,
            file_actions=[(os.POSIX_SPAWN_DUP2, one, number) for number, one in enumerate(streams)],
            setsid=True,
            setsigmask=(),
            setsigdef=_CHANGED,
        )
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in _OF_THE_HOST:
            raise
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise CannotExecute(f"cannot {doing}: {reason}") from None
    finally:
        os.chdir("/")


def _program(name: str, env: dict[str, str]) -> str:
    """Where the job's own PATH has it. Raises OSError."""
    if "/" in name:
        return name
    found = None
    for directory in env.get("PATH", os.defpath).split(os.pathsep):
        place = f"{directory or '.'}/{name}"
        if os.access(place, os.X_OK) and not os.path.isdir(place):
            return place
        if found is None and os.path.exists(place):
            found = place
    number = errno.ENOENT if found is None else errno.EACCES
    raise OSError(number, os.strerror(number), name)


def confine(pid: int, limits: list[tuple[int, int]], others: Collection[int] = ()) -> None:
    """Put ``limits`` (of `resource`) upon a new child. ``others``: processes of this one that were
    there before it.

    What it forks from here on inherits them; upon what it has forked by now, orphans included,
    they are put as well. Raises OSError, also where it forks faster than that.
    """
    _limit(pid, limits)
    _score_for_oom(pid)
    known = {pid, *others}
    for _ in range(_PASSES):
        new = {*procfs.below(pid), *(procfs.children(os.getpid()) or ())} - known
        family = {os.getpid(), *known, *new}
        if not [one for one in new if _forked(one, limits, family)]:
            return
        known |= new
    raise OSError(errno.EAGAIN, "it forks faster than it can be confined")


def _forked(pid: int, limits: list[tuple[int, int]], family: Collection[int]) -> bool:
    """Whether a process, if it is there, had been forked before its parent was confined.

    It may have ended since it was seen, and its pid be anybody's: whose parent is none of
    ``family`` is let be, and so is what takes its place meanwhile.
    """
    seen = procfs.process(pid)
    if seen is None or seen.parent not in family:
        return False

    def same() -> bool:
        now = procfs.process(pid)
        return now is not None and now.start == seen.start

    try:
        changed = _limit(pid, limits, same)
    except ProcessLookupError:
        return False
    except PermissionError:
        if same():
            raise
        return False
    if changed and same():
        _score_for_oom(pid)
    return changed


def _limit(
    pid: int, limits: list[tuple[int, int]], same: Callable[[], bool] = lambda: True
) -> bool:
    """Whether any of ``limits`` was not kept yet: what it has lowered by itself stays. ``same``:
    asked just before each change."""
    changed = False
    for kind, value in limits:
        soft, hard = resource.prlimit(pid, kind)
        lower = hard != resource.RLIM_INFINITY and hard < value
        if not lower and (soft, hard) != (value, value):
            if not same():
                break
            resource.prlimit(pid, kind, (value, value))
            changed = True
    return changed


def _score_for_oom(pid: int) -> None:
    """Where the host runs out of memory, the job goes before what looks after it."""
    with contextlib.suppress(OSError):
        fd = os.open(f"/proc/{pid}/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, _OOM_SCORE)
        finally:
            os.close(fd)


def _is_over(pid: int) -> bool:
    """It has ended by itself, and waits to be waited for."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


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
