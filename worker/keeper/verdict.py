"""How an attempt ended, from the evidence that its keeper has. Pure."""

from __future__ import annotations

import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    import resource
    from typing import Any

    from worker.keeper.protocol import Exit


class Usage:
    """What the processes of one attempt used: all that were waited for, and what those waited for.

    Not the kernel's own sum (RUSAGE_CHILDREN): a keeper may have had other attempts before.
    """

    __slots__ = ("cpu_seconds", "max_rss_mb")

    def __init__(self) -> None:
        self.cpu_seconds = 0.0
        self.max_rss_mb = 0.0

    def add(self, usage: resource.struct_rusage) -> None:
        self.cpu_seconds += usage.ru_utime + usage.ru_stime
        self.max_rss_mb = max(self.max_rss_mb, usage.ru_maxrss / 1024)


def verdict(
    *,
    status: int | None,
    cause: str | None,
    error: str,
    memory_mb: int,
    usage: Usage,
    wall_seconds: float,
) -> Exit:
    """``status`` is waitpid's."""
    code = number = None
    if status is not None and not error:
        if os.WIFEXITED(status):
            code = os.WEXITSTATUS(status)
        elif os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
    peak_mb = usage.max_rss_mb
    # A process that outgrew the limit between two looks of the watchdog, and failed of it.
    outgrown = bool(memory_mb) and peak_mb >= memory_mb and code != 0
    return {
        "code": code,
        "signal": number,
        "cause": cause,
        "oom": cause == "memory" or outgrown,
        "error": error,
        "cpu_seconds": usage.cpu_seconds,
        "max_rss_mb": peak_mb,
        "wall_seconds": wall_seconds,
    }


def container_verdict(
    *,
    state: dict[str, Any] | None,
    cause: str | None,
    said: bytes,
    program: str,
    oom_kills: int,
    peak_mb: float,
    memory_mb: int,
    cpu_seconds: float,
    wall_seconds: float,
) -> Exit:
    """``state``: the engine's word, None where it has none; ``said``: the start of stderr.

    An engine's flag for "out of memory" may be missing, or be set though only a child was killed:
    it is one piece of evidence, the kernel's count another. A killed job that filled its memory is
    the third.
    """
    code = number = None
    error = ""
    if state is None:
        cause = cause or "engine"
    else:
        code, number = _decode(int(state["ExitCode"]))
        error = _why_not_started(code, said, program) or _engines_error(state, code)
    if error:
        code = number = None
    killed = number == signal.SIGKILL and cause is None
    filled = bool(memory_mb) and peak_mb >= 0.99 * memory_mb
    flagged = bool(state and state.get("OOMKilled"))
    counted = flagged or oom_kills > 0
    return {
        "code": code,
        "signal": number,
        "cause": cause,
        "oom": cause == "memory" or counted or (killed and filled),
        "error": error,
        "cpu_seconds": cpu_seconds,
        # what filled up between two looks was full when the kernel counted a kill
        "max_rss_mb": max(peak_mb, memory_mb) if counted else peak_mb,
        "wall_seconds": wall_seconds,
    }


def _decode(status: int) -> tuple[int | None, int | None]:
    """Exit code and signal: an init says 128 + N for a program that signal N ended."""
    if status - 128 in {int(number) for number in signal.Signals}:
        return None, status - 128
    return status, None


def _why_not_started(code: int | None, said: bytes, program: str) -> str:
    """What the engine's init says of a program that cannot be executed."""
    first = said.split(b"\n", 1)[0].decode(errors="replace")
    if code in (126, 127) and first.startswith("[FATAL tini"):
        reason = first.rpartition(" failed: ")[2]
    elif code == 1 and first.startswith("ERROR (catatonit:"):
        reason = first.partition("failed to exec pid1: ")[2]
    else:
        return ""
    return f"cannot execute {program}: {reason}"[:1000] if reason else ""


def _engines_error(state: dict[str, Any], code: int | None) -> str:
    """The engine's own, where it could not start the container at all."""
    return str(state.get("Error") or "")[:1000] if code in (126, 127, 128) else ""
