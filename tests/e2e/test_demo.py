"""``cyxwiz demo``: nothing is needed, the model is what stays, and nothing else does."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cli import Cli, Started, mentioning
from tests.support.redis_server import short_directory
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e

LONG = ("--epochs", "1000000")


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    """A user's own settings must not reach the demo: none of these could work."""
    temporary = short_directory()
    yield Cli(
        cwd=tmp_path,
        env={
            "TMPDIR": str(temporary),
            "CYXWIZ_REDIS_URL": "redis://127.0.0.1:1/0",
            "CYXWIZ_EXECUTION__ALLOW_UNTRUSTED_NATIVE": "false",
            "CYXWIZ_CONFIG": str(tmp_path / "none.yaml"),
        },
    )
    shutil.rmtree(temporary)


def nothing_left(cli: Cli) -> None:
    temporary = Path(cli.env["TMPDIR"])
    wait_until(
        lambda: not mentioning(temporary / "cyxwiz-demo-"),
        timeout=20,
        what=f"the end of {mentioning(temporary / 'cyxwiz-demo-')}",
    )
    assert list(temporary.iterdir()) == []


def test_it_trains_a_model_and_leaves_nothing_else(cli: Cli, tmp_path: Path) -> None:
    done = cli.fresh("demo")
    assert done.code == 0, done
    assert "\x1b" not in done.out
    assert "allow_untrusted_native: true" in done.out
    assert re.search(r"epoch 20/20  loss 0\.\d+  accuracy 0\.\d+", done.out)
    told = dict(re.findall(r"^(\w+) {2,}(.*)$", done.out, re.MULTILINE))
    assert float(told["accuracy"].split()[0]) >= 0.95
    assert "held out" in told["accuracy"]
    model = Path(told["model"])
    assert model.is_relative_to(tmp_path / "demo-output")
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    assert told["sha256"].startswith(digest)
    assert told["mode"] == "native"
    assert "allow_untrusted_native" in told["because"]
    assert re.fullmatch(r"[\d.]+ s, of which the job [\d.]+ m?s", told["took"])
    nothing_left(cli)


@pytest.mark.timeout(300)
def test_with_an_engine_and_the_image_it_trains_in_the_sandbox(cli: Cli, tmp_path: Path) -> None:
    from tests.support import engine

    image = engine.executor()
    cli.env["DOCKER_HOST"] = f"unix://{engine.shared()}"
    done = cli.fresh("demo", "--epochs", "2")
    assert done.code == 0, done
    assert f"the job\n  runs in a container of {image}" in done.out
    assert "allow_untrusted_native" not in done.out
    told = dict(re.findall(r"^(\w+) {2,}(.*)$", done.out, re.MULTILINE))
    assert told["mode"] == "docker"
    assert (tmp_path / "demo-output" / Path(told["model"]).name).stat().st_size > 0
    nothing_left(cli)


def test_why_there_is_no_sandbox_is_said(cli: Cli, tmp_path: Path) -> None:
    cli.env["DOCKER_HOST"] = f"unix://{tmp_path / 'none.sock'}"
    done = cli.fresh("demo", "--epochs", "1")
    assert done.code == 0, done
    assert "native, since there is no sandbox:\n  docker at" in done.out
    nothing_left(cli)


def test_json_ends_with_the_outcome(cli: Cli, tmp_path: Path) -> None:
    done = cli.fresh("demo", "--json", "--epochs", "2", "--output", "kept")
    assert done.code == 0, done
    assert "allow_untrusted_native: true" in done.err
    *events, outcome = done.lines
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert events[-1]["type"] == "succeeded"
    assert set(outcome) == {
        *("type", "metrics", "accuracy", "model_path", "sha256", "seconds", "job_seconds"),
        *("mode", "why"),
    }
    assert outcome["type"] == "demo"
    assert Path(outcome["model_path"]).parent == tmp_path / "kept"
    nothing_left(cli)


def test_a_terminal_gets_a_bar(cli: Cli) -> None:
    done = cli.on_terminal("demo", "--epochs", "3")
    assert done.code == 0, done.out
    assert "\x1b[" in done.out
    assert "100 %" in done.out
    assert "epoch 3/3" in done.out
    nothing_left(cli)


@pytest.fixture
def running(cli: Cli) -> Started:
    demo = cli.start("demo", *LONG)
    demo.wait_said("epoch 1/")
    return demo


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_everything(cli: Cli, running: Started, number: int, code: int) -> None:
    done = running.end(number)
    assert done.code == code, done
    assert "Traceback" not in done.err
    nothing_left(cli)


def test_a_killed_demo_takes_its_node_and_redis_with_it(cli: Cli, running: Started) -> None:
    temporary = Path(cli.env["TMPDIR"])
    assert running.end(signal.SIGKILL).code == -signal.SIGKILL
    wait_until(
        lambda: not mentioning(temporary / "cyxwiz-demo-"), timeout=40, what="the node's end"
    )


def test_a_node_that_dies_is_said(cli: Cli, running: Started) -> None:
    found = mentioning(Path(cli.env["TMPDIR"]) / "cyxwiz-demo-")
    agent = next(one for one in found if r"worker.cli\x00node" in one)
    os.kill(int(agent.split()[0]), signal.SIGKILL)
    assert running.process.wait(40) == 1
    assert "the node ended while the job ran" in running.err
    nothing_left(cli)


def test_a_place_that_cannot_be_written_is_refused_at_once(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = cli.fresh("demo", "--output", "file/below")
    assert done.code == 1
    assert "name another directory with --output" in done.err
    assert done.out == ""
    nothing_left(cli)


def test_a_long_name_of_the_temporary_directory_does_no_harm(cli: Cli, tmp_path: Path) -> None:
    long = tmp_path / ("long" * 30)
    long.mkdir()
    done = cli.fresh("demo", "--epochs", "1", env={"TMPDIR": str(long)})
    assert done.code == 0, done
    used = re.search(r"(/.*/cyxwiz-demo-\w+)/redis/", done.out)
    assert used is not None
    assert not mentioning(used[1])
    assert not Path(used[1]).exists()
    assert list(long.iterdir()) == []


def test_it_gives_up_in_time(cli: Cli) -> None:
    done = cli.fresh("demo", *LONG, "--timeout", "1")
    assert done.code == 1
    assert "the job did not end within 1 s" in done.err
    nothing_left(cli)
