"""What a hostile job leaves in its output: collected as files of its own, or not at all."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

import pytest

from tests.integration.engine.jobs import LIMITS, Jobs
from tests.support.runtimes import hear
from worker.plan import StopCause
from worker.store.artifacts import collect

pytestmark = pytest.mark.integration

ANY_SIZE = replace(LIMITS, memory_mb=0)
"""Where memory has no limit, a single file has none either."""


def test_only_what_is_the_jobs_own_is_collected(jobs: Jobs, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("the node's")
    handle = jobs.start(
        "import os, socket\nos.chdir('/job/output')\n"
        "open('model', 'w').write('mine')\n"
        "os.mkdir('deep'); open('deep/more', 'w').write('mine too')\n"
        "os.symlink('/etc/shadow', 'shadow')\n"
        f"os.symlink({str(secret)!r}, 'secret')\n"
        "os.symlink('/', 'root'); os.symlink('..', 'up'); os.symlink('.', 'loop')\n"
        "os.link('model', 'twice')\n"
        "os.mkfifo('fifo')\n"
        "made = socket.socket(socket.AF_UNIX); made.bind('socket')\n"
        "open('new\\nline', 'w'); open(b'\\xff', 'w')\n"
        "os.mkdir('closed'); open('closed/in', 'w'); os.chmod('closed', 0)\n"
        "at = '.'\n"
        "for _ in range(60): at += '/d'; os.mkdir(at)\n"
        "open(at + '/bottom', 'w').write('too deep')\n"
    )
    end = hear(handle).exit
    assert end is not None
    assert end.code == 0
    output = jobs.places.root / "output" / str(handle.attempt)
    kept = collect(output, tmp_path / "kept", most_bytes=1 << 20)
    names = {one.name for one in kept.artifacts}
    assert names == {"deep/more", "closed/in"} or names == {"deep/more"}
    for path in (tmp_path / "kept").rglob("*"):
        assert not path.is_symlink()
        assert path.is_dir() or "the node's" not in path.read_text()
    assert any("shadow" in one for one in kept.refused)


def test_a_sparse_file_of_a_terabyte_is_what_it_says_it_is(jobs: Jobs) -> None:
    _, end = jobs.run(
        "import os, time\n"
        "with open('/job/output/sparse', 'w') as file: os.truncate(file.fileno(), 1 << 40)\n"
        "time.sleep(600)",
        limits=ANY_SIZE,
    )
    assert (end.signal, end.cause) == (signal.SIGKILL, StopCause.OUTPUT)


def test_a_sparse_file_left_at_the_end_is_seen_too(jobs: Jobs) -> None:
    _, end = jobs.run(
        "import os\n"
        "with open('/job/output/sparse', 'w') as file: os.truncate(file.fileno(), 1 << 40)\n",
        limits=ANY_SIZE,
    )
    assert end.cause is StopCause.OUTPUT
