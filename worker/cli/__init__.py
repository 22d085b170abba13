"""The command ``cyxwiz``. See docs/cli.md.

`main` is light on purpose: what a command needs is imported when it runs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(args: Sequence[str] | None = None) -> None:
    """Run ``cyxwiz`` with ``args`` (default: this process's). Ends by SystemExit."""
    from worker.shadow import TasksShadowed, ensure_tasks_is_ours

    try:
        ensure_tasks_is_ours()
    except TasksShadowed as error:
        sys.stderr.write(f"cyxwiz: {error}\n")
        sys.exit(3)  # exits.ExitCode.INVALID, which cannot be imported now

    from worker.cli.app import cli
    from worker.cli.exits import end_of_pipe

    try:
        try:
            cli.main(args=args, prog_name="cyxwiz")
        finally:
            sys.stdout.flush()  # what is left in the buffer may find the pipe broken as well
    except BrokenPipeError:
        end_of_pipe()
