"""What a training script may use to speak with its node: copy this file, or import it.

It needs Python 3.9 and nothing else. A script may as well print the lines itself; all that is here
does no more than `docs/job-contract.md` says. Outside a job the places lie below the working
directory, so a script runs on a desk as it does on a node.

    import cyxwiz_progress as job   # or: from worker.runner import helper as job

    for epoch in range(job.resume_epoch(), epochs):
        ...
        job.progress(epoch + 1, epochs, loss=loss, accuracy=accuracy)
        with job.new_checkpoint(epoch + 1, ".pt") as path:
            torch.save(model.state_dict(), path)
    job.complete("model.pt")
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

_asked: set[int] = set()
_NUMBERED = re.compile(r"epoch-(\d+)(?:\D|$)")


def config() -> dict[str, Any]:
    """The job's configuration; {} outside a job."""
    text = os.environ.get("CYXWIZ_JOB_CONFIG", "")
    return json.loads(base64.b64decode(text)) if text else {}


def data() -> Path | None:
    """The file or folder with the job's data; None if it has none."""
    return _place("CYXWIZ_DATA", "data", make=False)


def checkpoints() -> Path:
    """The folder for checkpoints. The job's next attempt finds in it what this one leaves."""
    return _place("CYXWIZ_CHECKPOINTS", "checkpoints") or Path()


def output() -> Path:
    """The folder for results: every file in it is kept when the job succeeds."""
    return _place("CYXWIZ_OUTPUT", "output") or Path()


def progress(
    epoch: int,
    total_epochs: int | None = None,
    loss: float | None = None,
    accuracy: float | None = None,
    **metrics: float,
) -> None:
    """``epoch`` epochs are over. Every further number is a metric."""
    total = {} if total_epochs is None else {"total_epochs": int(total_epochs)}
    numbers = {"loss": loss, "accuracy": accuracy, **metrics}
    _say("progress", epoch=int(epoch), **total, **_numbers(numbers))


def checkpoint(epoch: int, path: str | Path) -> None:
    """A checkpoint with ``epoch`` epochs was saved at ``path``."""
    path = Path(path)
    sha256 = _sha256(path) if path.is_file() else ""
    _say("checkpoint", epoch=int(epoch), path=str(path), sha256=sha256)


@contextlib.contextmanager
def new_checkpoint(epoch: int, suffix: str = "", keep: int = 3) -> Iterator[Path]:
    """A path to write a checkpoint to; it appears under its name when it is whole.

    ``with new_checkpoint(3, ".pt") as path: torch.save(model.state_dict(), path)``. The last
    ``keep`` stay. If the block raises, there is none.
    """
    folder = checkpoints()
    final = folder / f"epoch-{epoch:06d}{suffix}"
    partial = folder / f".partial-{final.name}"
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(final)
    finally:
        with contextlib.suppress(FileNotFoundError):
            partial.unlink()
    for old in _saved(folder)[:-keep]:
        old.unlink()
    checkpoint(epoch, final)


def last_checkpoint() -> Path | None:
    """What `new_checkpoint` wrote last, in this attempt or one before; None: nothing."""
    found = _saved(checkpoints())
    return found[-1] if found else None


def resume_epoch() -> int:
    """How many epochs `last_checkpoint` has; 0 if there is none."""
    found = last_checkpoint()
    return _epoch_of(found.name) if found else 0


def listen() -> None:
    """SIGTERM and SIGUSR1 no longer end the script: `asked` and `stopping` tell of them."""
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda number, frame: _asked.add(number))


def asked() -> bool:
    """Whether a checkpoint is wanted now, by `listen`'s signals; SIGUSR1 counts once."""
    found = bool(_asked)
    _asked.discard(signal.SIGUSR1)
    return found


def stopping() -> bool:
    """Whether the node wants the script to end: save, then call `stopped`."""
    return signal.SIGTERM in _asked


def stopped() -> NoReturn:
    """End as one that SIGTERM has ended."""
    failed("stopped by SIGTERM", code=143)


def complete(model: str | Path | None = None, **metrics: float) -> None:
    """The last word of a script that succeeded. ``model``: a file beneath `output`."""
    path = str(model) if model else ""
    _say("complete", success=True, model_path=path, metrics=_numbers(metrics), error="")


def failed(error: str, code: int = 1) -> NoReturn:
    """The last word of one that did not; ends the script."""
    _say("complete", success=False, model_path="", error=error[:1000])
    sys.exit(code)


def _place(variable: str, name: str, make: bool = True) -> Path | None:
    inside = Path("/job") / name
    named = os.environ.get(variable)
    path = Path(named) if named else inside if inside.exists() else Path(name)
    if make:
        path.mkdir(parents=True, exist_ok=True)
    return path if path.exists() else None


def _saved(folder: Path) -> list[Path]:
    found = [path for path in folder.iterdir() if _NUMBERED.match(path.name)]
    return sorted(found, key=lambda path: _epoch_of(path.name))


def _epoch_of(name: str) -> int:
    match = _NUMBERED.match(name)
    return int(match[1]) if match else 0


def _numbers(values: dict[str, Any]) -> dict[str, float]:
    """Without None and what is not finite; numbers of numpy and PyTorch as plain ones."""
    found = {name: float(value) for name, value in values.items() if value is not None}
    return {name: value for name, value in found.items() if abs(value) < float("inf")}


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def _say(kind: str, **fields: Any) -> None:
    whose = {"job_id": os.environ["CYXWIZ_JOB_ID"]} if "CYXWIZ_JOB_ID" in os.environ else {}
    line = json.dumps({"type": kind, **whose, **fields, "timestamp": time.time()})
    # a progress bar leaves its line unfinished: what came after it would be log
    print(f"\n{line}", flush=True)
