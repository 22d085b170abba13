"""One cache, several processes: fetched once, never taken from a user, whole after any death."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.store.conftest import entries, leftovers
from tests.integration.store.serving import Page, Server
from tests.support.waiting import wait_until
from worker.keeper import procfs
from worker.store.cache import Cache, Entry
from worker.store.refusals import NoRoom
from worker.store.trees import Writer

pytestmark = pytest.mark.integration

MIB = 1 << 20
ROOT = Path(__file__).parents[3]


class Slot:
    """A process that fetches one URL; see one_fetch.py."""

    def __init__(self, cache: Path, url: str, out: Path, cap: int) -> None:
        self.out = out
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.integration.store.one_fetch"),
                *(str(cache), str(cap), url, str(out)),
            ],
            stdin=subprocess.PIPE,
            cwd=ROOT,
        )

    def said(self) -> str:
        """Where the data are, or the error."""
        wait_until(self.out.exists, timeout=30, what="the fetch")
        return self.out.read_text()

    def errands(self) -> list[int]:
        return list(procfs.children(self.process.pid) or ())

    def end(self) -> None:
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.wait(20)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Slot]]:
    slots: list[Slot] = []

    def one(url: str, cap: int = 1 << 30) -> Slot:
        slots.append(Slot(tmp_path / "cache", url, tmp_path / f"out{len(slots)}", cap))
        return slots[-1]

    yield one
    for slot in slots:
        slot.end()


def test_three_processes_fetch_it_once(server: Server, start: Callable[..., Slot]) -> None:
    content = os.urandom(2 * MIB)
    # no ETag: nothing tells its age, so it must have been asked for once all had come
    server.pages["/a"] = page = Page(content, hold_after=-1)
    slots = [start(f"{server.url}/a") for _ in range(3)]
    assert page.held.wait(20)
    for slot in slots:  # one for the transfer, the others for that one
        wait_until(Path(f"{slot.out}.waited").exists, what="all to have come")
    page.go.set()
    said = {slot.said() for slot in slots}
    assert len(said) == 1
    assert Path(said.pop()).read_bytes() == content
    assert server.asked["GET /a"] == 1


@pytest.mark.parametrize("after", [10, MIB + 10])
def test_kill_9_in_the_middle_of_a_fetch(
    server: Server, start: Callable[..., Slot], tmp_path: Path, after: int
) -> None:
    content = os.urandom(2 * MIB)
    server.pages["/a"] = page = Page(content, hold_after=after)
    first, second = start(f"{server.url}/a"), start(f"{server.url}/a")
    assert page.held.wait(20)
    wait_until(lambda: first.errands() or second.errands(), what="the errand")
    victim, other = (first, second) if first.errands() else (second, first)
    [errand] = victim.errands()
    victim.process.send_signal(signal.SIGKILL)
    victim.process.wait(10)
    wait_until(lambda: not Path(f"/proc/{errand}").exists(), what="the errand to end with it")
    page.hold_after = None
    page.go.set()
    assert Path(other.said()).read_bytes() == content
    assert server.asked["GET /a"] == 2
    assert not leftovers(tmp_path / "cache")
    assert len(entries(tmp_path / "cache")) == 1


def test_what_a_dead_process_left_is_swept(
    server: Server, start: Callable[..., Slot], tmp_path: Path
) -> None:
    server.pages["/a"] = page = Page(b"x" * MIB, hold_after=1000)
    slot = start(f"{server.url}/a")
    assert page.held.wait(20)
    cache = Cache(tmp_path / "cache", cap=1 << 30, keep_free=0)
    cache.sweep()
    assert leftovers(tmp_path / "cache"), "a living writer's is left alone"
    slot.process.kill()
    slot.process.wait(10)
    cache.sweep()
    assert not leftovers(tmp_path / "cache")
    assert not entries(tmp_path / "cache")
    assert not list((tmp_path / "cache" / "keys").iterdir())


def test_what_another_process_uses_is_never_evicted(
    server: Server, start: Callable[..., Slot], tmp_path: Path
) -> None:
    for name in "abc":
        server.pages[f"/{name}"] = Page(os.urandom(2 * MIB))
    cap = 5 * MIB
    kept = start(f"{server.url}/a", cap)
    path = Path(kept.said())
    loose = start(f"{server.url}/b", cap)
    assert Path(loose.said()).exists()
    refused = start(f"{server.url}/c", cap)
    assert refused.said().startswith("NoRoom: ")
    assert "in use by other jobs" in refused.said()
    loose.end()
    assert Path(start(f"{server.url}/c", cap).said()).exists(), "b made way"
    assert path.read_bytes() == server.pages["/a"].content
    assert len(entries(tmp_path / "cache")) == 2


def test_a_descriptor_that_was_passed_on_keeps_it(tmp_path: Path) -> None:
    """As a keeper has it, whose slot is gone."""
    cache = Cache(tmp_path / "cache", cap=MIB, keep_free=0)
    entry = _entry(cache, b"data")
    keeper = subprocess.Popen(["/bin/sleep", "60"], pass_fds=(entry.held.fd,))
    try:
        entry.close()
        with pytest.raises(NoRoom):
            cache.begin(MIB)
    finally:
        keeper.kill()
        keeper.wait()
    cache.begin(MIB).close()


def _entry(cache: Cache, content: bytes) -> Entry:
    with cache.begin(len(content)) as partial:
        writer = Writer(partial.data)
        writer.file("a", io.BytesIO(content))
        return partial.publish(writer.finish())
