"""An errand: a process that a slot's process sends for what takes long and touches what is foreign.

Servers that never answer, libraries of many vendors, archives made to harm: whatever becomes of
them, the errand is ended and the slot goes on. It ends with whoever sent it.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import sys
from typing import Any

from worker.keeper import prctl
from worker.store.errands.talk import Talk, Unavailable, Wrong
from worker.store.trees import TooMuch, Unsafe

_MOST_MEMORY = 4 << 30
"""Bytes of address space: archives can ask for any amount."""


def main(parent: int) -> None:
    """Do what the first line of stdin asks."""
    if sys.platform.startswith("linux"):
        prctl.die_with_parent(signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
    os.umask(0o077)
    # whatever a library prints must not be taken for an answer
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    talk = Talk(sys.stdin.buffer, out)
    request = talk.request()
    try:
        talk.done(_do(request, talk))
    except Unavailable as error:
        talk.failed("unavailable", str(error))
    except (Wrong, Unsafe) as error:
        talk.failed("wrong", str(error))
    except TooMuch as error:
        talk.failed("much", str(error))
    except MemoryError:
        talk.failed("wrong", "it needs more memory than may be used to read it")
    except OSError as error:
        kind = "full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "broken"
        talk.failed(kind, f"{error.strerror or error}: {error.filename or ''}".rstrip(": "))


def _do(request: dict[str, Any], talk: Talk) -> dict[str, Any]:
    match request["errand"]:
        case "fetch":
            from worker.store.errands import fetch, guard

            guard.install(request["hosts"])
            return fetch.fetch(request, talk)
        case "upload":
            from worker.store.errands import guard, upload

            guard.install(request["hosts"])
            return upload.upload(request, talk)
        case "bring":
            from worker.store.errands import guard, snapshots

            guard.install(request["hosts"])
            return snapshots.bring(request, talk)
        case "remove":
            from worker.store.errands import guard, snapshots

            guard.install(request["hosts"])
            return snapshots.remove(request, talk)
        case "unpack":
            from worker.store.errands import unpack

            resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY, _MOST_MEMORY))
            return unpack.unpack(request, talk)
        case other:
            raise Wrong(f"no such errand: {other!r}")
