"""The audit: whole lines from many writers, and what was done to them afterwards shows."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest

from worker.node.audit import Audit, AuditBroken, check

pytestmark = pytest.mark.unit


def write(path: Path, slot: str, count: int) -> None:
    audit = Audit(path, node="node-a", slot=slot)
    for number in range(count):
        audit.write("started", job=f"{slot}-{number}", why="x" * 3_000)


def test_lines_of_many_writers_are_whole_and_follow_each_other(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write, args=(path, f"cpu{one}", 50)) for one in range(4)]
    for one in writers:
        one.start()
    for one in writers:
        one.join(60)
    assert check(path) == 200
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert {line["job"] for line in lines} == {f"cpu{s}-{n}" for s in range(4) for n in range(50)}
    assert all(len(line["why"]) == 2_001 for line in lines)
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("harm", ["changed", "taken out", "put in", "no JSON"])
def test_what_was_done_to_it_shows(harm: str, tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    write(path, "cpu0", 5)
    lines = path.read_text().splitlines(keepends=True)
    match harm:
        case "changed":
            lines[2] = lines[2].replace("cpu0-2", "cpu0-9")
        case "taken out":
            del lines[2]
        case "put in":
            lines.insert(2, lines[2])
        case _:
            lines[2] = "[]\n"
    path.write_text("".join(lines))
    with pytest.raises(AuditBroken, match=r"audit\.log:[34]: "):
        check(path)


def test_a_line_has_its_largest_size_and_still_says_what_it_is_of(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    audit = Audit(path, node="node-a", slot="cpu0")
    audit.write("started", job="job-1", sandbox={str(n): "x" * 100 for n in range(2_000)})
    audit.write("ended", job="job-1")
    first, _ = [json.loads(line) for line in path.read_text().splitlines()]
    assert (first["job"], first["cut"]) == ("job-1", True)
    assert check(path) == 2
