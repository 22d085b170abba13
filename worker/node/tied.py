"""Starts a program that ends with whoever started it, by whatever death (Linux).

The kernel sends the signal when the *thread* that started the program ends, so start it from one
that lives as long as the program shall. Elsewhere than on Linux the program is just started.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path


def tied_command(command: Sequence[str], number: int) -> list[str]:
    """``command``, so wrapped that it gets signal ``number`` when this process's thread ends.

    No ``preexec_fn``, which is not safe where there are threads: a small interpreter ties itself
    and then becomes the program, under the same pid.
    """
    if not sys.platform.startswith("linux"):
        return list(command)
    here = Path(__file__).resolve()
    interpreter = str(Path(sys.executable).resolve())
    parent = str(os.getpid())
    return [interpreter, "-I", "-S", "-X", "utf8", str(here), parent, str(number), *command]


def main(argv: Sequence[str]) -> None:
    """``tied.py PARENT SIGNAL PROGRAM ARGUMENT...``; does not return."""
    parent, number, *command = argv
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from worker.keeper import prctl

    prctl.die_with_parent(int(number))
    if os.getppid() != int(parent):  # it died before it could be tied to
        os._exit(1)
    os.execv(command[0], command)  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main(sys.argv[1:])
