"""Checkpoints of real runs: whatever ends an attempt, the next one goes on from the last whole one.

What concerns a trainer's own state is run with both of them.
"""

from __future__ import annotations

import hashlib
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.integration.runner.runs import Done, Place, job, mlp, torch_python
from tests.integration.runner.warm import Warm
from worker.runner import tensorfile
from worker.runner.faults import Exit
from worker.runner.model_file import load_model

pytestmark = pytest.mark.integration

LAYERS = mlp(128, dropout=0.2)


@pytest.fixture
def trainer(request: pytest.FixtureRequest) -> str:
    return str(getattr(request, "param", "sklearn"))


both = pytest.mark.parametrize("trainer", ["sklearn", "pytorch"], indirect=True)


@pytest.fixture
def place(trainer: str, tmp_path: Path, warmed: Callable[[str], Warm]) -> Iterator[Place]:
    python = torch_python() if trainer == "pytorch" else sys.executable
    made = Place(tmp_path / "job", warm=warmed(python))
    yield made
    made.end()


@pytest.fixture
def other(place: Place, tmp_path: Path) -> Iterator[Place]:
    """For a run that nothing interrupts."""
    made = Place(tmp_path / "other", warm=place.warm)
    yield made
    made.end()


def config(trainer: str, **more: Any) -> dict[str, Any]:
    options = {"trainer": trainer, "schedule": {"type": "cosine"}, **more.pop("options", {})}
    return job(LAYERS, hyperparameters=options, **{"epochs": 10, "checkpoint_every": 2, **more})


def same(one: Done, other: Done) -> None:
    """The same model, and the same metrics, to the last bit."""
    assert one.code == other.code == Exit.DONE, one.log + other.log
    assert one.complete["metrics"] == other.complete["metrics"]
    weights = load_model(other.model).weights
    for name, value in load_model(one.model).weights.items():
        assert np.array_equal(value, weights[name])


def checkpoints(place: Place) -> list[str]:
    return sorted(path.name for path in place.checkpoints.glob("*.safetensors"))


@both
def test_a_killed_run_goes_on_and_ends_as_if_nothing_had_been(
    place: Place, other: Place, trainer: str
) -> None:
    # rate, order of the samples, dropout, moments: all of it must be the same afterwards
    for _ in range(5):  # one that was over before it could be killed shows nothing
        shutil.rmtree(place.home, ignore_errors=True)
        started = place.start(config(trainer))
        started.wait_said("progress", 5)
        started.send(signal.SIGKILL)
        if started.wait().code == -signal.SIGKILL:
            break
    done = place.run(config(trainer))
    assert "resumed from epoch-00000" in done.log
    assert 5 <= done.epochs[0] <= 10
    assert done.epochs[-1] == 10
    same(done, other.run(config(trainer)))


@both
def test_sigterm_saves_and_the_next_run_goes_on_from_there(
    place: Place, other: Place, trainer: str
) -> None:
    options = {"schedule": {"type": "step", "step_size": 3, "gamma": 0.5}}
    endless = config(trainer, epochs=1_000_000, checkpoint_every=0, options=options)
    started = place.start(endless)
    started.wait_said("progress", 3)
    started.send(signal.SIGTERM)
    done = started.wait()
    assert done.code == Exit.TERMINATED
    assert done.complete["success"] is False
    assert "SIGTERM" in done.complete["error"]
    (saved,) = done.of("checkpoint")
    assert checkpoints(place) == [Path(saved["path"]).name]
    assert done.complete["error"].endswith(f"after {_where(saved['path'])}")
    wanted = {**endless, "epochs": saved["epoch"] + 2}
    again = place.run(wanted)
    assert again.epochs == [saved["epoch"] + 1, saved["epoch"] + 2]
    same(again, other.run(wanted))


def _where(path: str) -> str:
    """``epoch 3, step 20`` for ``epoch-000003-step-000000020.safetensors``."""
    parts = Path(path).stem.split("-")
    where = f"epoch {int(parts[1])}"
    return where + (f", step {int(parts[3])}" if len(parts) > 2 else "")


@both
def test_sigusr1_saves_and_the_run_goes_on(place: Place, trainer: str) -> None:
    started = place.start(config(trainer, epochs=1_000_000, checkpoint_every=0))
    started.wait_said("progress", 1)
    started.send(signal.SIGUSR1)
    started.wait_said("checkpoint", 0)
    (saved,) = [line for line in started.lines if line["type"] == "checkpoint"]
    started.wait_said("progress", saved["epoch"] + 2)
    path = Path(saved["path"])
    assert hashlib.sha256(path.read_bytes()).hexdigest() == saved["sha256"]
    told = path.with_name(f"{path.name}.sha256").read_text()
    assert told == f"{saved['sha256']}  {path.name}\n"


def test_the_last_few_are_kept_and_a_damaged_one_is_passed_over(
    place: Place, other: Place, trainer: str
) -> None:
    wanted = config(trainer, epochs=7, checkpoint_every=1, options={"keep_checkpoints": 2})
    short = {**wanted, "epochs": 6}
    assert place.run(short).code == Exit.DONE
    assert checkpoints(place) == ["epoch-000005.safetensors", "epoch-000006.safetensors"]
    newest = place.checkpoints / "epoch-000006.safetensors"
    damaged = bytearray(newest.read_bytes())
    damaged[-1] ^= 1
    newest.write_bytes(damaged)
    (place.checkpoints / ".partial-left").write_bytes(b"half")
    done = place.run(wanted)
    assert "epoch-000006.safetensors is not used: its SHA-256 is" in done.log
    assert "resumed from epoch-000005" in done.log
    assert done.epochs == [6, 7]
    assert sorted(path.name for path in place.checkpoints.iterdir()) == [
        "epoch-000006.safetensors",
        "epoch-000006.safetensors.sha256",
        "epoch-000007.safetensors",
        "epoch-000007.safetensors.sha256",
    ]
    # the schedule knows of seven epochs in both
    assert done.code == Exit.DONE


def test_a_checkpoint_of_another_model_is_not_used(place: Place, trainer: str) -> None:
    assert place.run(config(trainer, epochs=2)).code == Exit.DONE
    changed = config(trainer, epochs=1, options={"learning_rate": 0.5})
    done = place.run(changed)
    assert "made from another configuration" in done.log
    assert done.epochs == [1]


def test_early_stopping_is_resumed_with_its_best_epoch(
    place: Place, other: Place, trainer: str
) -> None:
    options = {"learning_rate": 0.05, "early_stopping": {"patience": 3}, "schedule": "plateau"}
    wanted = config(trainer, epochs=300, checkpoint_every=1, options=options)
    whole = other.run(wanted)
    stopped_at = whole.complete["metrics"]["epochs"]
    assert stopped_at < 300
    # an attempt that ended two epochs before the end: in the midst of waiting for a better one
    half = {**wanted, "epochs": stopped_at - 2}
    assert place.run(half).code == Exit.DONE
    done = place.run(wanted)
    assert done.epochs == [stopped_at - 1, stopped_at]
    same(done, whole)


def test_a_checkpoint_has_no_program_in_it(place: Place, trainer: str) -> None:
    assert place.run(config(trainer, epochs=2)).code == Exit.DONE
    (path,) = place.checkpoints.glob("*.safetensors")
    tensors, metadata = tensorfile.read(path)
    assert metadata["format"] == "cyxwiz-checkpoint-1"
    assert all(value.dtype.kind in "fiu" for value in tensors.values())
    assert b"pickle" not in path.read_bytes()
