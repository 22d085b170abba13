"""Job files: JSON, YAML 1.2, and ``--set``."""

from __future__ import annotations

import io
import json
import math
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from tasks.errors import InvalidJob
from tasks.job import JobConfig
from worker.cli.demo_job import DIGITS
from worker.cli.jobfile import read_job, scalar
from worker.cli.jobsettings import apply

pytestmark = pytest.mark.unit

EXAMPLES = Path(__file__).parents[4] / "examples" / "jobs"


def written(tmp_path: Path, text: str | bytes, name: str = "job.yaml") -> str:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def test_yaml_and_json_give_the_same_job(tmp_path: Path) -> None:
    as_json = '{"command": ["true"], "hyperparameters": {"learning_rate": 0.001}, "epochs": 3}'
    as_yaml = "command: ['true']\nhyperparameters: {learning_rate: 1e-3}\nepochs: 3\n"
    one = read_job(written(tmp_path, as_json, "job.json"))
    other = read_job(written(tmp_path, as_yaml))
    assert one == other
    assert JobConfig.parse(one).digest() == JobConfig.parse(other).digest()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("012", 12),
        ("no", "no"),
        ("2030-01-31T12:00:00Z", "2030-01-31T12:00:00Z"),
        ("true", True),
        ("~", None),
        ("", None),
        ("1_000", "1_000"),
        ("0x10", "0x10"),
        ("[1, 2.5]", [1, 2.5]),
        ('{"a": 1}', {"a": 1}),
        ("'5'", "5"),
        ("[1, 2", "[1, 2"),
    ],
)
def test_a_scalar_is_what_yaml_1_2_makes_of_it(text: str, value: Any) -> None:
    assert scalar(text) == value


def test_nan_is_kept_for_the_job_to_refuse(tmp_path: Path) -> None:
    job = read_job(written(tmp_path, "command: [x]\nhyperparameters: {learning_rate: .nan}"))
    assert math.isnan(job["hyperparameters"]["learning_rate"])
    with pytest.raises(InvalidJob, match="learning_rate"):
        JobConfig.parse(job)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", "is empty"),
        ("  \n", "is empty"),
        ("[1]", "a job is an object"),
        ("just text", "a job is an object"),
        ("a: 1\na: 2", ":2: the key 'a' stands twice"),
        ('{"a": 1, "a": 2}', "a"),
        ("a: [", ":1: neither JSON nor YAML"),
        ("? [a]\n: 1", ":1: a key that is no text"),
        ("a: !!python/object/apply:os.system ['true']", ":1: the tag"),
        ("a: !!python/name:os.system ''", ":1:"),
        (b"\xff\xfe", "is not UTF-8 text"),
        (
            "a0: &a0 [x]\n"
            + "".join(f"a{n}: &a{n} [{f'*a{n - 1}, ' * 10}]\n" for n in range(1, 9)),
            "too many values",
        ),
        ("[" * 2000, "too deep"),
        ("x: " * 3, ":1:"),
    ],
)
def test_a_file_that_is_no_job_is_refused_by_name(
    tmp_path: Path, text: str | bytes, names: str
) -> None:
    path = written(tmp_path, text)
    with pytest.raises(InvalidJob) as error:
        read_job(path)
    assert path in str(error.value)
    assert names in str(error.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidJob, match=r"nowhere\.json: cannot be read: No such file"):
        read_job(str(tmp_path / "nowhere.json"))
    with pytest.raises(InvalidJob, match="Is a directory"):
        read_job(str(tmp_path))


def test_stdin_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"command: [ls]")))
    assert read_job("-") == {"command": ["ls"]}


def test_set_changes_fields_and_what_is_inside_them(tmp_path: Path) -> None:
    text = json.dumps({"model_definition": {"layers": [{"type": "Dense", "units": 8}]}})
    job = read_job(
        written(tmp_path, text),
        [
            "epochs=5",
            "hyperparameters.learning_rate=1e-2",
            "model_definition.layers.0.units=16",
            "labels.team.name=12",
            "env.SEED=007",
            "user_id=42",
            "priority=high",
            "checkpoint_every=0",
        ],
    )
    assert job == {
        "model_definition": {"layers": [{"type": "Dense", "units": 16}]},
        "epochs": 5,
        "hyperparameters": {"learning_rate": 0.01},
        "labels": {"team.name": "12"},
        "env": {"SEED": "007"},
        "user_id": "42",
        "priority": "high",
        "checkpoint_every": 0,
    }
    assert JobConfig.parse(job).epochs == 5


def test_null_takes_a_field_away_that_may_be_left_out() -> None:
    job = {"command": ["x"], "image": "a:1", "seed": 3, "labels": {"a": "b"}}
    changes = ["image=null", "seed=null", "expires=null", "user_id=null", "labels.a=null"]
    changed = apply(job, changes)
    assert changed == {"command": ["x"], "labels": {"a": "null"}}  # inside of labels all is text
    assert JobConfig.parse(changed).image is None


@pytest.mark.parametrize("field", sorted(JobConfig.model_fields))
def test_null_takes_any_field_away(field: str) -> None:
    left = apply({"command": ["x"], field: "whatever"}, [f"{field}=null"])
    assert left == ({} if field == "command" else {"command": ["x"]})
    assert apply({"command": ["x"], **left}, ["epochs=2", f"{field}=null"]).get(field) is None


def test_arguments_of_a_script_are_set() -> None:
    script: dict[str, Any] = {"script": "a.py", "code_uri": "file:/x"}
    job = apply(script, ['args=["--lr", "0.1"]', "args.1='0.2'"])
    assert JobConfig.parse(job).args == ("--lr", "0.2")


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ("epochs", "key=value is needed"),
        ("=5", "key=value is needed"),
        ("epoch=5", "no field 'epoch'"),
        ("command.x=5", "'x' is no index of a list of 1"),
        ("command.7=5", "'7' is no index of a list of 1"),
        ("epochs.a=5", "leads into what is no object"),
    ],
)
def test_a_wrong_set_is_a_usage_error(change: str, names: str) -> None:
    with pytest.raises(click.UsageError) as error:
        apply({"command": ["x"], "epochs": 1}, [change])
    assert names in error.value.message


def test_the_demos_job_is_the_example() -> None:
    assert json.loads((EXAMPLES / "digits.json").read_text()) == DIGITS
