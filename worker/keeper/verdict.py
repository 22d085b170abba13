"""How an attempt ended, from the evidence that its keeper has. Pure."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    import resource

    from worker.keeper.protocol import Exit


def verdict(
    *,
    status: int | None,
    cause: str | None,
    error: str,
    memory_mb: int,
    usage: resource.struct_rusage,
    wall_seconds: float,
) -> Exit:
    """``status`` is waitpid's, ``usage`` that of all processes that were waited for."""
    code = number = None
    if status is not None and not error:
        if os.WIFEXITED(status):
            code = os.WEXITSTATUS(status)
        elif os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
    peak_mb = usage.ru_maxrss / 1024
    # A process that outgrew the limit between two looks of the watchdog, and failed of it.
    outgrown = bool(memory_mb) and peak_mb >= memory_mb and code != 0
    return {
        "code": code,
        "signal": number,
        "cause": cause,
        "oom": cause == "memory" or outgrown,
        "error": error,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "max_rss_mb": peak_mb,
        "wall_seconds": wall_seconds,
    }
