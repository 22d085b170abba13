"""``cyxwiz`` where a producer has installed it: with no extra, and with the extra `cli`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Hub
from tests.support.cli import ROOT, Done

pytestmark = pytest.mark.integration

JOB = ROOT / "examples" / "jobs" / "command.json"


def cyxwiz(place: Path, extras: str, *words: str, url: str = "unix:///none.sock") -> Done:
    """A command, where the package and these extras are installed and nothing else is."""
    clean = {name: text for name, text in os.environ.items() if not name.startswith("CYXWIZ_")}
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.installed", extras, "worker.cli", *words],
        env={**clean, "PYTHONPATH": str(ROOT), "HOME": str(place), "CYXWIZ_REDIS_URL": url},
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("words", [("jobs",), ("submit", str(JOB)), ("top",)], ids=" ".join)
def test_a_command_without_its_packages_says_which_extra_brings_them(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    done = cyxwiz(tmp_path, "", *words)
    assert done.code == 3
    (line,) = done.err.splitlines()
    assert line.endswith(
        "is not installed, and this command needs it: pip install 'cyxwiz-worker[cli]'"
    )


def test_help_needs_no_extra(tmp_path: Path) -> None:
    done = cyxwiz(tmp_path, "", "--help")
    assert (done.code, done.err) == (0, "")
    assert "Submit training jobs" in done.out


def test_a_producers_commands_need_the_extra_cli_and_no_other(hub: Hub, tmp_path: Path) -> None:
    def said(*words: str, code: int = 0) -> str:
        done = cyxwiz(tmp_path, "cli", *words, url=hub.url)
        assert done.code == code, done
        return done.out

    (job,) = said("submit", str(JOB), "--set", "epochs=2").split()[-1:]
    assert job in said("jobs")
    assert job in said("explain", job)
    assert "1 wait" in said("top", "--once")
    said("cancel", job)
    assert "cancelled" in said("follow", job, code=7)


def test_to_sign_needs_the_extra_sign(tmp_path: Path) -> None:
    done = cyxwiz(tmp_path, "cli", "keys", "new", "alice")
    assert done.code == 3
    assert "pip install 'cyxwiz-worker[sign]'" in done.err
    assert cyxwiz(tmp_path, "cli,sign", "keys", "new", "alice").code == 0
