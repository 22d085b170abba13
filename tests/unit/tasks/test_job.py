"""What `JobConfig` takes, what it refuses and in which words, and its one form."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.choices import Device, Priority, Sandbox
from tasks.errors import InvalidJob
from tasks.job import JobConfig
from tasks.job_rules import RESERVED_ENV
from tasks.jsonvalue import MOST_BYTES
from tasks.model import ACTIVATIONS, LAYERS, LOSSES, OPTIMIZERS

pytestmark = pytest.mark.unit

COMMAND: dict[str, Any] = {"command": ["true"]}
EXAMPLES = Path(__file__).parents[3] / "examples" / "jobs"


def model(*layers: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"model_definition": {"layers": list(layers) or [{"type": "Dense"}], **more}}


def refusal(value: object) -> str:
    with pytest.raises(InvalidJob) as caught:
        JobConfig.parse(value)
    return str(caught.value)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.json")), ids=lambda path: path.name)
def test_examples_are_valid(path: Path) -> None:
    assert JobConfig.parse(path.read_text()).labels == {"example": path.stem}


def test_a_command_is_enough() -> None:
    job = JobConfig.parse(COMMAND)
    assert job.command == ("true",)
    assert (job.required_device, job.sandbox) == (Device.ANY, Sandbox.REQUIRED)
    assert (job.priority, job.epochs, job.job_id) == (Priority.NORMAL, 1, None)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("epochs", "3"),
        ("epochs", True),
        ("epochs", 3.0),
        ("epochs", None),
        ("batch_size", -1),
        ("seed", -1),
        ("memory_mb", -1),
        ("memory_mb", 0),
        ("memory_mb", 1.5),
        ("cpu_cores", 0),
        ("cpu_cores", 1e-10),
        ("memory_mb", 15),
        ("cpu_cores", True),
        ("cpu_cores", "2"),
        ("job_id", "a/b"),
        ("job_id", "../x"),
        ("job_id", ".hidden"),
        ("job_id", ""),
        ("job_id", "a\n"),
        ("job_id", "x" * 129),
        ("job_id", 7),
        ("user_id", "a:b"),
        ("pool", "Lab"),
        ("pool", "a.b"),
        ("priority", "urgent"),
        ("priority", 0),
        ("required_device", "gpu"),
        ("sandbox", "off"),
        ("network", True),
        ("timeout_seconds", 0),
        ("timeout_seconds", "60"),
        ("stall_timeout_seconds", -1),
        ("expires", 0),
        ("expires", True),
        ("expires", "tomorrow"),
        ("expires", "2030-01-31T12:00:00"),
        ("estimated_duration", 0),
        ("max_attempts", 0),
        ("checkpoint_every", -1),
        ("command", []),
        ("command", "python train.py"),
        ("command", ["a", 1]),
        ("command", ["a\0b"]),
        ("labels", {"a b": "x"}),
        ("labels", {"a": 1}),
        ("labels", {f"k{n}": "" for n in range(65)}),
        ("env", {"1A": "x"}),
        ("env", {"A": 1}),
        ("env", {"A": "x\0"}),
        ("env", {"A=B": "x"}),
        ("env", {"NVIDIA_VISIBLE_DEVICES": "all"}),
        *(("env", {f"{start}X": "0"}) for start in RESERVED_ENV),
        ("env", {"LD_PRELOAD": "x"}),
        ("env", {"PYTHONPATH": "x"}),
        ("env", {"CYXWIZ_DATA": "x"}),
        ("hyperparameters", {"learning_rate": 0}),
        ("hyperparameters", {"learning_rate": -0.1}),
        ("hyperparameters", {"learning_rate": "fast"}),
        ("hyperparameters", {"learning_rate": True}),
        ("hyperparameters", []),
        ("dataset_uri", "data.csv"),
        ("dataset_uri", "/data/x.csv"),
        ("dataset_uri", "builtin:../x"),
        ("dataset_uri", "file:\n"),
        ("image", "has space"),
        ("image", "--privileged"),
        ("image_version", "1.2"),
        ("image_version", ">=1.2,"),
        ("image_version", ">=one"),
        ("image_version", "~=1"),
        ("secrets", ["a", "a"]),
        ("signature", ""),
    ],
)
def test_a_wrong_value_is_refused_by_the_name_of_its_field(field: str, value: object) -> None:
    message = refusal({**COMMAND, field: value})
    assert f"\n  {field}" in message
    assert "; right: " in message


def test_who_sets_what_is_the_nodes_is_told_all_that_is() -> None:
    right = refusal({**COMMAND, "env": {"HIP_VISIBLE_DEVICES": "0"}}).partition("; right: ")[2]
    assert [start for start in RESERVED_ENV if start not in right] == []


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    "where", ["cpu_cores", "timeout_seconds", "hyperparameters.a", "hyperparameters.a[1]"]
)
def test_numbers_that_are_not_finite_are_refused(where: str, number: float) -> None:
    field, _, inner = where.partition(".")
    value: object = number
    if inner:
        value = {"a": [1, number] if "[" in inner else number}
    assert f"  {where}: {number} is no finite number" in refusal({**COMMAND, field: value})


def test_an_infinite_number_in_json_text_is_refused() -> None:
    assert "finite" in refusal('{"command": ["true"], "hyperparameters": {"a": 1e999}}')
    assert "NaN is no finite number" in refusal('{"command": ["true"], "cpu_cores": NaN}')


def test_every_wrong_field_is_named_at_once() -> None:
    message = refusal({**COMMAND, "epochs": 0, "memory_mb": -5, "priority": "x", "epcohs": 3})
    assert len(message.splitlines()) == 5
    assert "epochs: must be greater than or equal to 1 (got 0); right: a whole number" in message
    assert "memory_mb: must be greater than or equal to 16 (got -5)" in message
    assert "epcohs: unknown field; did you mean epochs? allowed: args, batch_size, " in message


def test_values_that_may_be_secret_are_not_repeated() -> None:
    for field, value in [
        ("env", {"A": ["hunter2"]}),
        ("secrets", ["hunter2 "]),
        ("signature", ["hunter2"]),
    ]:
        assert "hunter2" not in refusal({**COMMAND, field: value})


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({}, "none of them is given; exactly one"),
        ({**COMMAND, **model()}, "model_definition and command are given; exactly one"),
        ({"script": "a.py"}, "code_uri: is missing"),
        ({**COMMAND, "code_uri": "file:/x"}, "script: is missing"),
        ({**COMMAND, "args": ["x"]}, "args: are those of a script, and there is none; a command"),
        ({**model(), "args": ["x"]}, "args: are those of a script, and there is none"),
        ({**COMMAND, "gpus": 1}, "gpus: is for GPUs, and required_device is any"),
        ({**COMMAND, "gpus": 1, "required_device": "cpu"}, "and required_device is cpu"),
        ({**COMMAND, "gpu_memory_mb": 1}, "gpu_memory_mb: is for GPUs"),
        ({**COMMAND, "image": "a:b", "image_version": "==1"}, "image_version: image is given"),
        ({**COMMAND, "memory_mb": 30_000}, "at most 24576 with required_device any"),
        (
            {**COMMAND, "required_device": "cuda", "gpu_memory_mb": 90_000, "sandbox": "gvisor"},
            "gpu_memory_mb: no queue serves so much (got 90000); at most 80000",
        ),
    ],
)
def test_fields_that_contradict_each_other(config: dict[str, Any], says: str) -> None:
    assert says in refusal(config)


def test_a_script_with_its_code_is_valid() -> None:
    script = {"script": "a.py", "code_uri": "file:/x"}
    plain = JobConfig.parse(script)
    assert (plain.script, plain.args) == ("a.py", ())
    job = JobConfig.parse({**script, "args": ["--lr", "0.1", "", "ä b", "$X"]})
    assert job.to_wire()["args"] == ["--lr", "0.1", "", "ä b", "$X"]
    assert JobConfig.parse(job.canonical()) == job
    assert JobConfig.parse({**script, "args": []}).canonical() == plain.canonical()  # as before
    for wrong in ("--lr 0.1", ["--lr", 0.1], ["\0"], ["x"] * 4097, None):
        assert "args" in refusal({**script, "args": wrong})
    assert "args[1]: is no text (got 0.1); right: a list of texts" in refusal(
        {**script, "args": ["--lr", 0.1]}
    )


@pytest.mark.parametrize(
    "text", [">=1.2,<2", "~=1.4", "==1.*", "!= 1.5rc1", ">=1.0.dev3, <2.0.post1", "==1!2.0+cu12"]
)
def test_version_ranges(text: str) -> None:
    assert JobConfig.parse({**COMMAND, "image_version": text}).image_version == text


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("{", "not JSON"),
        ('{"epochs": 1, "epochs": 2}', "'epochs' stands twice"),
        ("[]", "not list"),
        (3, "not int"),
        (None, "not NoneType"),
        ({1: 2}, "the key 1 is no string"),
        ("[" * 100_000, "nested too deep"),
        ('{"seed": ' + "9" * 5000 + "}", "the job is wrong"),
        ({**COMMAND, "seed": 2**70}, "more than 64 bits"),
        ({**COMMAND, "seed": object()}, "object is no JSON type"),
        ({**COMMAND, "env": {"A": "\ud800"}}, "half a surrogate pair"),
        (b'{"command": ["\xff"]}', "the job is wrong"),
    ],
)
def test_what_is_no_job_at_all(value: object, says: str) -> None:
    assert says in refusal(value)


def test_nesting_and_size_are_bounded() -> None:
    deep: Any = 1
    for _ in range(29):
        deep = [deep]
    assert JobConfig.parse({**COMMAND, "hyperparameters": {"a": deep}})
    assert "at most 32 levels" in refusal({**COMMAND, "hyperparameters": {"a": [[[deep]]]}})
    loop: list[Any] = []
    loop.append(loop)
    assert "nested too deep" in refusal({**COMMAND, "hyperparameters": {"a": loop}})
    large = ["x" * 1000] * (MOST_BYTES // 1003 + 1)
    assert f"at most {MOST_BYTES}: put" in refusal({**COMMAND, "hyperparameters": {"a": large}})
    assert JobConfig.parse({**COMMAND, "hyperparameters": {"a": large[:-5]}})


def test_a_config_changed_after_validation_is_validated_again() -> None:
    job = JobConfig.parse({**COMMAND, "hyperparameters": {"learning_rate": 0.1}})
    job.hyperparameters["learning_rate"] = -1
    assert "learning_rate" in refusal(job)


def test_layer_names_become_canonical() -> None:
    job = JobConfig.parse(
        model(
            {"type": "dense", "units": 64, "activation": "leaky_relu"},
            {"type": "batch-norm"},
            optimizer={"type": "AdamW", "weight_decay": 0.1},
            loss="cross-entropy",
        )
    )
    assert job.to_wire()["model_definition"] == {
        "layers": [
            {"type": "Dense", "units": 64, "activation": "LeakyReLU"},
            {"type": "BatchNorm"},
        ],
        "optimizer": {"type": "adamw", "weight_decay": 0.1},
        "loss": "cross_entropy",
    }


def test_every_known_layer_is_taken() -> None:
    layers = [{"type": name} for name in LAYERS]
    layers += [{"type": "Dense", "activation": name} for name in ACTIVATIONS]
    for optimizer in OPTIMIZERS:
        for loss in LOSSES:
            assert JobConfig.parse(model(*layers, optimizer=optimizer, loss=loss))


@pytest.mark.parametrize(
    ("definition", "says"),
    [
        (model({"type": "Dens"}), "model_definition.layers[0].type: unknown layer; one of Dense,"),
        (model({"units": 3}), "model_definition.layers[0].type: is missing"),
        (model({"type": "Dense", "units": 0}), "layers[0]: units is 0; a whole number"),
        (model({"type": "Dense", "units": True}), "units is True"),
        (model({"type": "Dropout", "rate": 1}), "rate is 1; a number from 0 to below 1"),
        (model({"type": "Dense", "activation": "x"}), "activation: unknown activation; one of"),
        (model(loss="x"), "model_definition.loss: unknown loss; one of cross_entropy, "),
        (model(optimizer={"type": "x"}), "optimizer.type: unknown optimizer"),
        (model(optimiser="x"), "optimiser: unknown field; did you mean optimizer?"),
        ({"model_definition": {"layers": []}}, "model_definition.layers: "),
        ({"model_definition": "Dense"}, "model_definition: is no object"),
    ],
)
def test_a_wrong_model(definition: dict[str, Any], says: str) -> None:
    assert says in refusal(definition)


def test_canonical_is_the_same_however_it_is_said() -> None:
    one = JobConfig.parse({"command": ["true"], "labels": {"b": "1", "a": "2"}, "job_id": "j"})
    two = JobConfig.parse(
        '{"job_id": "j", "epochs": 1, "sandbox": "required", "labels": {"a": "2", "b": "1"}, '
        '"command": ["true"], "seed": null}'
    )
    assert one == two
    assert one.canonical() == '{"command":["true"],"job_id":"j","labels":{"a":"2","b":"1"}}'
    assert one.canonical() == two.canonical()
    assert one.digest() == two.digest() != one.with_job_id("k").digest()


def test_the_canonical_form_of_known_configs_never_changes() -> None:
    """A default that changes would change what a stored and signed job means."""
    job = JobConfig.parse((EXAMPLES / "digits.json").read_text())
    assert job.digest() == "18f5a299c49ca831340f76e025fce38ff07bc4f618ab85a35d494332a243516f"


_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**62), 2**62)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
_names = st.text("abcXYZ09_", min_size=1, max_size=8)
_configs = st.fixed_dictionaries(
    {"command": st.lists(st.text("ab é\n", min_size=1), min_size=1, max_size=3)},
    optional={
        "job_id": st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True),
        "hyperparameters": st.dictionaries(_names, _json, max_size=4),
        "epochs": st.integers(1, 1000),
        "labels": st.dictionaries(st.text("abc09", min_size=1, max_size=5), st.text("xy é")),
        "cpu_cores": st.floats(0.1, 64) | st.integers(1, 64),
        "expires": st.floats(1, 1e6) | st.just("2030-01-31T12:00:00+02:00"),
        "priority": st.sampled_from(list(Priority)),
        "sandbox": st.sampled_from([str(sandbox) for sandbox in Sandbox]),
    },
)


@given(_configs)
def test_the_wire_keeps_the_config_and_its_bytes(config: dict[str, Any]) -> None:
    job = JobConfig.parse(config)
    wire = json.loads(json.dumps(job.to_wire()))
    assert JobConfig.parse(wire) == job
    assert JobConfig.parse(job.canonical()).canonical() == job.canonical()
    assert JobConfig.parse(job).canonical() == job.canonical()
    reordered = dict(reversed(list(config.items())))
    assert JobConfig.parse(reordered).canonical() == job.canonical()


@given(st.dictionaries(st.sampled_from(sorted(JobConfig.model_fields)) | _names, _json))
def test_any_json_is_taken_or_refused_as_invalid(config: dict[str, Any]) -> None:
    with contextlib.suppress(InvalidJob):  # any other error fails the test
        JobConfig.parse(config)


def test_expiry() -> None:
    assert JobConfig.parse(COMMAND).expires_at(100.0) is None
    assert JobConfig.parse({**COMMAND, "expires": 30}).expires_at(100.0) == 130.0
    absolute = JobConfig.parse({**COMMAND, "expires": "1970-01-01T01:00:00+00:30"})
    assert absolute.expires_at(100.0) == 1800.0
    assert absolute.expires == "1970-01-01T01:00:00+00:30"


def test_width() -> None:
    assert JobConfig.parse(COMMAND).width == 0
    assert JobConfig.parse({**COMMAND, "required_device": "cuda"}).width == 1
    assert JobConfig.parse({**COMMAND, "required_device": "rocm", "gpus": 4}).width == 4


def test_importing_the_module_imports_no_celery() -> None:
    code = (
        "import sys, tasks.job, tasks.routing; "
        "print({'celery', 'kombu', 'redis', 'worker', 'docker'} "
        "& {m.split('.')[0] for m in sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "set()"
