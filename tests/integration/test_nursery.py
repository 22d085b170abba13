"""Real processes: what a nursery forks, and who dies with whom."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.nodes import gone
from tests.support.waiting import wait_until
from worker.keeper import procfs
from worker.node.nursery import Newborn, Nursery


@pytest.fixture
def nursery(tmp_path: Path) -> Iterator[Nursery]:
    made = Nursery(["json.tool"], {**os.environ, "MARK": "outer"}, tmp_path)
    yield made
    made.close()


def bear(nursery: Nursery, source: str, output: Path, **env: str) -> Newborn:
    with output.open("ab") as out:
        return nursery.bear(
            [sys.executable, "-c", source], env={**env}, output=out.fileno(), name="cpu0"
        )


def ended(born: Newborn) -> None:
    wait_until(lambda: born.process.ended, what="the worker's end")


def test_a_worker_has_its_own_environment_directory_and_output(
    nursery: Nursery, tmp_path: Path
) -> None:
    source = (
        "import os, sys; print(os.environ.get('MARK'), os.environ['OWN'], os.getcwd(), "
        "os.getpid() == os.getsid(0), flush=True); print('error', file=sys.stderr); sys.exit(3)"
    )
    born = bear(nursery, source, tmp_path / "out", OWN="mine")
    born.go()
    ended(born)
    assert born.process.collect() == 3
    said = (tmp_path / "out").read_text()
    assert said == f"None mine {tmp_path} True\nerror\n"


def test_it_holds_nothing_of_the_nurserys(nursery: Nursery, tmp_path: Path) -> None:
    first = bear(nursery, "import time; time.sleep(60)", tmp_path / "out")
    first.go()
    second = bear(nursery, "import os; print(sorted(os.listdir('/proc/self/fd')))", tmp_path / "2")
    second.go()
    ended(second)
    # 0, 1, 2, and the one that lists them
    assert (tmp_path / "2").read_text() == "['0', '1', '2', '3']\n"
    first.process.send(signal.SIGKILL)
    ended(first)
    assert first.process.collect() == -signal.SIGKILL


def test_one_that_may_not_go_does_nothing(nursery: Nursery, tmp_path: Path) -> None:
    born = bear(nursery, "print('ran')", tmp_path / "out")
    born.let_go()
    ended(born)
    assert born.process.collect() == 0
    assert (tmp_path / "out").read_text() == ""


def test_the_nursery_dies_and_its_workers_live(nursery: Nursery, tmp_path: Path) -> None:
    first = bear(nursery, "import time; time.sleep(60)", tmp_path / "out")
    first.go()
    entry = procfs.process(first.process.name.pid)
    assert entry is not None
    os.kill(entry.parent, signal.SIGKILL)
    wait_until(lambda: gone(entry.parent), what="the nursery's end")
    second = bear(nursery, "", tmp_path / "out")
    second.go()
    ended(second)
    assert second.process.collect() == 0
    assert not first.process.ended
    first.process.send(signal.SIGKILL)
    ended(first)
    assert first.process.collect() is None, "nobody can know"


def test_it_ends_with_whoever_has_it(nursery: Nursery, tmp_path: Path) -> None:
    """The pipe and the channel are closed by the kernel when an agent is killed: the same here."""
    born = bear(nursery, "print('ran')", tmp_path / "out")
    entry = procfs.process(born.process.name.pid)
    assert entry is not None
    nursery.close()
    assert gone(entry.parent)
    born.let_go()
    ended(born)
    assert (tmp_path / "out").read_text() == ""


def test_a_module_that_is_not_there_is_the_workers_affair(tmp_path: Path) -> None:
    made = Nursery(["no_such_module"], os.environ, tmp_path)
    born = bear(made, "print('ran')", tmp_path / "out")
    born.go()
    ended(born)
    made.close()
    assert (tmp_path / "out").read_text() == "ran\n"
