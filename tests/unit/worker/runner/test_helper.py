"""The file that scripts may copy: what it says is what the node understands."""

from __future__ import annotations

import ast
import base64
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.events import Checkpoint, Progress
from worker.result import missing_output
from worker.runner import helper
from worker.runtimes.base import Chunk, Stream
from worker.stream.decoder import Decoder

pytestmark = pytest.mark.unit


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """A folder with a copy of the file; nothing else of the project is on the path."""
    shutil.copy(helper.__file__, tmp_path / "cyxwiz_progress.py")
    return tmp_path


def run(
    script: Path, code: str, *, inside: bool = True, code_wanted: int = 0
) -> tuple[Decoder, list[object]]:
    """What the node makes of a script's lines."""
    places = {
        "CYXWIZ_JOB_ID": "job-1",
        "CYXWIZ_JOB_CONFIG": base64.b64encode(json.dumps({"epochs": 4}).encode()).decode(),
        "CYXWIZ_CHECKPOINTS": str(script / "ck"),
        "CYXWIZ_OUTPUT": str(script / "out"),
        "CYXWIZ_DATA": str(script),
    }
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import cyxwiz_progress as job\n{code}"],
        cwd=script,
        env={"PATH": os.defpath, **(places if inside else {})},
        capture_output=True,
        check=False,
    )
    assert done.returncode == code_wanted, done.stderr.decode()
    decoder = Decoder("job-1", 4)
    chunk = Chunk(stream=Stream.STDOUT, offset=0, data=done.stdout)
    return decoder, [said.event for said in (*decoder.feed(chunk), *decoder.flush())]


def test_progress_and_the_last_word(script: Path) -> None:
    decoder, events = run(
        script,
        "job.progress(1, 4, loss=0.5, accuracy=0.9, lr=0.1, bad=float('nan'))\n"
        "model = job.output() / 'model.bin'\n"
        "model.write_bytes(b'weights')\n"
        "job.complete(model, f1=0.8)\n",
    )
    (progress,) = events
    assert isinstance(progress, Progress)
    assert (progress.epoch, progress.total_epochs, progress.progress) == (1, 4, 0.25)
    assert (progress.loss, progress.accuracy) == (0.5, 0.9)
    assert progress.metrics == {"lr": 0.1}
    assert decoder.completion is not None
    assert decoder.completion.success
    assert decoder.completion.metrics == {"f1": 0.8}
    assert missing_output(decoder.completion, script / "out") == ""


def test_a_failure(script: Path) -> None:
    decoder, _ = run(script, "job.failed('no luck')", code_wanted=1)
    assert decoder.completion is not None
    assert not decoder.completion.success
    assert decoder.completion.error == "no luck"


def test_checkpoints_are_whole_and_the_last_few_stay(script: Path) -> None:
    code = (
        "for epoch in range(job.resume_epoch(), 5):\n"
        "    with job.new_checkpoint(epoch + 1, '.txt', keep=2) as path:\n"
        "        path.write_text(str(epoch + 1))\n"
    )
    _, events = run(script, code)
    last = events[-1]
    assert isinstance(last, Checkpoint)
    assert last.epoch == 5
    assert last.sha256 == hashlib.sha256(b"5").hexdigest()
    names = sorted(path.name for path in (script / "ck").iterdir())
    assert names == ["epoch-000004.txt", "epoch-000005.txt"]
    _, events = run(script, code)  # resumes after the last, and has nothing left to do
    assert events == []
    _, events = run(
        script,
        "try:\n"
        "    with job.new_checkpoint(6) as path:\n"
        "        path.write_text('half')\n"
        "        raise OSError('disk full')\n"
        "except OSError: pass\n"
        "print(job.last_checkpoint().read_text(), job.resume_epoch())",
    )
    assert [event.lines for event in events] == [("5 5",)]  # type: ignore[attr-defined]  # a log
    assert sorted(path.name for path in (script / "ck").iterdir()) == names


def test_signals_are_told(script: Path) -> None:
    decoder, events = run(
        script,
        "import os, signal\n"
        "job.listen()\n"
        "os.kill(os.getpid(), signal.SIGUSR1)\n"
        "print(job.asked(), job.asked(), job.stopping())\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
        "print(job.asked(), job.asked(), job.stopping())\n"
        "job.stopped()",
        code_wanted=128 + signal.SIGTERM,
    )
    lines = [line for event in events for line in event.lines]  # type: ignore[attr-defined]  # logs
    assert lines == ["True False False", "True True True"]
    assert decoder.completion is not None
    assert not decoder.completion.success


def test_a_script_finds_its_places_in_a_job_and_outside(script: Path) -> None:
    _, events = run(script, "print(job.config(), job.data() == job.Path.cwd())")
    assert [event.lines for event in events] == [("{'epochs': 4} True",)]  # type: ignore[attr-defined]  # a log
    _, events = run(
        script, "print(job.config(), job.data(), job.output(), job.checkpoints())", inside=False
    )
    assert [event.lines for event in events] == [("{} None output checkpoints",)]  # type: ignore[attr-defined]  # a log
    assert (script / "output").is_dir()


def test_it_needs_the_standard_library_of_python_3_9_alone() -> None:
    tree = ast.parse(Path(helper.__file__).read_text(), feature_version=(3, 9))
    names = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        for name in (
            [one.name for one in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert names <= sys.stdlib_module_names
