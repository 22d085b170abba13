"""The composition root of a slot: ``celery -A worker worker`` starts one the standard way.

`cyxwiz node` starts one such worker for each slot and says which by the environment
(``CYXWIZ_SLOT``, ``CYXWIZ_STATE_DIR``, ``CYXWIZ_CONFIG`` …). Without it the worker is the slot
``cpu0`` of a node that has no agent, and reaps for the cluster itself.
"""

from __future__ import annotations

from worker.shadow import ensure_tasks_is_ours

ensure_tasks_is_ours()  # before anything of `tasks` is imported: a user's tasks.py may hide it

import logging  # noqa: E402 - after the check above
import mmap  # noqa: E402 - after the check above
import os  # noqa: E402 - after the check above
import signal  # noqa: E402 - after the check above
import sys  # noqa: E402 - after the check above
import time  # noqa: E402 - after the check above
from typing import Any  # noqa: E402 - after the check above

from celery.signals import (  # noqa: E402
    celeryd_after_setup,
    worker_process_init,
    worker_process_shutdown,
    worker_ready,
    worker_shutdown,
)

from tasks.celery import app  # noqa: E402
from tasks.errors import CyxWizError  # noqa: E402
from worker.broadcasts import obey_only_questions  # noqa: E402
from worker.slot import SlotProcess  # noqa: E402

__all__ = ["app"]

log = logging.getLogger(__name__)

app.conf.worker_consumer = "worker.consumer:SlotConsumer"
for _twice in ("celery.worker.strategy", "celery.app.trace"):
    # that a job has come, and how it ended, stands in lines of the project's own
    logging.getLogger(_twice).setLevel(logging.WARNING)

_UNABLE = 78
"""Exit code: EX_CONFIG of sysexits.h."""
_UNABLE_CHILDREN = 3
_CHILD_AGAIN_S = 1.0
_slot: SlotProcess | None = None
_worker = 0
"""The process id of the pool's parent."""
_unable_children = mmap.mmap(-1, 1)
"""Shared with the pool's children: how many of them, in a row, could not begin."""


def slot() -> SlotProcess:
    """This process's slot, from its environment. Raises ConfigError, PlatformError."""
    global _slot
    if _slot is None:
        _slot = SlotProcess.from_env(app.hub)
    return _slot


@celeryd_after_setup.connect  # type: ignore[untyped-decorator]  # Celery has no type hints
def _subscribe(sender: str, instance: Any, **_: Any) -> None:
    """Read the queues that the slot satisfies, whatever ``-Q`` says, before consuming begins."""
    global _worker
    _worker = os.getpid()
    obey_only_questions()
    try:
        app.amqp.queues.select(slot().queues())
    except CyxWizError as error:
        # Celery logs what a receiver raises, and goes on: here it would serve no slot
        sys.stderr.write(f"worker: {error}\n")
        raise SystemExit(_UNABLE) from None
    except Exception:  # a disk that is full for a moment: who started it tries again
        log.exception("slot.unable slot=%s", slot().name)
        raise SystemExit(1) from None


@worker_ready.connect  # type: ignore[untyped-decorator]  # Celery has no type hints
def _ready(**_: Any) -> None:
    try:
        slot().ready()
    except Exception:  # else it would serve, and its agent would wait for it for ever
        log.exception("slot.unable slot=%s", slot().name)
        raise SystemExit(1) from None


@worker_process_init.connect  # type: ignore[untyped-decorator]  # Celery has no type hints
def _enter_child(**_: Any) -> None:
    """Connections and the zygote belong to the pool's child: they are made after the fork."""
    try:
        slot().enter_child()
    except Exception:
        # Celery logs what a receiver raises, and goes on: it would take jobs, and run none
        _end_child()
    _unable_children[0] = 0


def _end_child() -> None:
    """The pool starts another child; where none comes to anything, the worker ends, too: whoever
    has started it sees that, and tries again with more and more time between."""
    _unable_children[0] = min(_unable_children[0] + 1, 255)
    log.exception("slot.child_unable slot=%s times=%d", slot().name, _unable_children[0])
    if _unable_children[0] >= _UNABLE_CHILDREN:
        worker = os.getppid()
        if worker == _worker:  # else it has died, and this is somebody who knows of nothing
            os.kill(worker, signal.SIGQUIT)
    time.sleep(_CHILD_AGAIN_S)
    os._exit(1)


@worker_process_shutdown.connect  # type: ignore[untyped-decorator]  # Celery has no type hints
def _leave_child(**_: Any) -> None:
    slot().leave_child()


@worker_shutdown.connect  # type: ignore[untyped-decorator]  # Celery has no type hints
def _shutdown(**_: Any) -> None:
    slot().stop()
