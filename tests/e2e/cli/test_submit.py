"""``cyxwiz submit``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.cli import Cli
from tests.support.cli_jobs import python, submitted

pytestmark = pytest.mark.e2e


def test_submit_takes_json_and_yaml_files_and_prints_the_ids(cli: Cli, tmp_path: Path) -> None:
    one, other = tmp_path / "job.json", tmp_path / "job.yaml"
    one.write_text(python("pass"))
    other.write_text("command: [python3, -S, -c, pass]\nuser_id: yam\n")
    done = cli("submit", str(one), str(other), "--set", "labels.n=1")
    assert done.code == 0
    first, second = done.out.split()
    assert cli("follow", first, second).code == 0
    spec = cli("job", second, "--json").json["spec"]
    assert spec["user_id"] == "yam"
    assert spec["labels"] == {"n": "1"}


def test_submit_says_id_and_queue_as_json(cli: Cli) -> None:
    found = cli("submit", "-", "--json", stdin=python("pass", job_id="named-json")).json
    assert found == {"job_id": "named-json", "queue": found["queue"], "missing": ""}
    assert found["queue"].startswith("work.")


def test_submit_and_follow_ends_as_the_job_does(cli: Cli) -> None:
    done = cli("submit", "-", "--follow", stdin=python("import sys; sys.exit(3)"))
    assert done.code == 1
    assert "failed: user_error" in done.out
    done = cli("submit", "-", "--follow", "--json", stdin=python("pass"))
    assert done.code == 0
    assert done.lines[-1]["type"] == "succeeded"


def test_the_same_job_twice_is_one_and_another_under_its_id_is_refused(cli: Cli) -> None:
    job = python("pass", job_id="same")
    assert submitted(cli, job) == submitted(cli, job) == "same"
    done = cli("submit", "-", stdin=python("print(1)", job_id="same"))
    assert done.code == 6
    assert "'same' was submitted before, with another configuration" in done.err


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"epoch": 3}, "epoch"),
        ({"epochs": 0}, "epochs"),
        ({"epochs": "three"}, "epochs"),
        ({"memory_mb": -1}, "memory_mb"),
        ({"job_id": "a/b"}, "job_id"),
        ({"hyperparameters": {"learning_rate": float("nan")}}, "learning_rate"),
    ],
)
def test_a_wrong_job_is_refused_naming_file_and_field(
    cli: Cli, tmp_path: Path, fields: dict[str, Any], names: str
) -> None:
    good, wrong = tmp_path / "good.json", tmp_path / "wrong.json"
    good.write_text(python("pass", job_id=f"good-{names}"))
    wrong.write_text(python("pass", **fields))
    done = cli("submit", str(good), str(wrong))
    assert done.code == 3
    assert done.out == ""
    assert f"{wrong}: " in done.err
    assert names in done.err
    assert "Traceback" not in done.err
    assert cli("job", f"good-{names}").code == 5, "nothing is submitted unless all are right"


def test_wrong_usage_is_2(cli: Cli) -> None:
    assert cli("submit").code == 2
    assert cli("submit", "-", "-").code == 2
    assert cli("submit", "-", "--set", "epochs", stdin=python("pass")).code == 2
    assert cli("nothing").code == 2
    assert cli("jobs", "--after", "x").code == 2
