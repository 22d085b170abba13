"""A short run with a fixed seed: nothing is lost, doubled or left behind."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.harness import Chaos, Plan
from tests.support.redis_server import short_directory

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]


@pytest.fixture
def directory() -> Iterator[Path]:
    made = short_directory()
    yield made
    shutil.rmtree(made, ignore_errors=True)


def test_a_short_run_has_no_violation(directory: Path) -> None:
    plan = Plan(seed=4, jobs=40, nodes=2, slots=1, every=2.0, patience=240.0)
    with Chaos(plan, directory) as chaos:
        report = chaos.run()
    print(report.text())
    assert report.violations == []
    assert sum(report.faults.values()) >= 5, "it was no test"
