"""The runner as a process: what it trains, what it says, how it ends."""

from __future__ import annotations

import csv
import hashlib
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from tests.integration.runner.runs import Done, Place, job, mlp
from worker.runner.data.split import held_out
from worker.runner.faults import Exit
from worker.runner.model_file import load_model

pytestmark = pytest.mark.integration

DIGITS = job(mlp(64), epochs=20, checkpoint_every=0, hyperparameters={"trainer": "sklearn"})


def accuracy(done: Done, config: dict[str, Any], data: Path | None = None) -> float:
    """Of the saved model, loaded apart from what trained it, on the samples held out."""
    x, y = held_out(config, data)
    return float((load_model(done.model).predict(x) == y).mean())


def finished(done: Done) -> Done:
    assert done.code == Exit.DONE, done.log
    assert done.complete["success"] is True
    assert done.complete["error"] == ""
    return done


def refused(done: Done, *texts: str, code: int = Exit.JOB) -> None:
    """It ended as it should, and each of ``texts`` is in its last word."""
    assert done.code == code, done.log
    assert done.complete["success"] is False
    for text in texts:
        assert text in done.complete["error"]
    assert "Traceback" not in done.log


def test_a_small_network_reads_digits(cold_place: Place) -> None:
    done = finished(cold_place.run(DIGITS))
    assert done.epochs == list(range(1, 21))
    for line in done.lines:
        assert line["job_id"] == "job-1"
        assert line["timestamp"] > 0
    last = done.of("progress")[-1]
    assert last["total_epochs"] == 20
    assert set(last) >= {"loss", "accuracy", "val_loss", "val_accuracy", "learning_rate"}
    assert last["loss"] < done.of("progress")[0]["loss"]
    found = accuracy(done, DIGITS)
    assert found >= 0.95
    assert found == pytest.approx(done.complete["metrics"]["accuracy"])
    assert hashlib.sha256(done.model.read_bytes()).hexdigest() == done.complete["sha256"]
    assert done.of("checkpoint") == []


def test_the_file_is_read_by_safetensors_itself(place: Place) -> None:
    done = finished(place.run({**DIGITS, "epochs": 1}))
    tensors = safetensors.numpy.load_file(done.model)
    assert tensors["layers.0.weight"].shape == (64, 64)
    assert tensors["layers.1.weight"].shape == (10, 64)
    with safetensors.safe_open(done.model, "numpy") as file:
        about = file.metadata()
    architecture = json.loads(about["architecture"])
    kinds = [layer["type"] for layer in architecture["layers"]]
    assert kinds == ["Dense", "ReLU", "Dense", "Softmax"]
    assert about["job_id"] == "job-1"
    assert about["trainer"].startswith("scikit-learn")


def test_the_same_seed_gives_the_same_model(place: Place) -> None:
    config = job(mlp(16, dropout=0.2), hyperparameters={"trainer": "sklearn"})
    first, again = finished(place.run({**config, "job_id": "a"})), None
    metrics = first.complete["metrics"]
    weights = load_model(first.model).weights
    for path in place.checkpoints.iterdir():
        path.unlink()
    again = finished(place.run({**config, "job_id": "b"}))
    assert again.complete["metrics"] == metrics
    for name, value in load_model(again.model).weights.items():
        assert np.array_equal(value, weights[name])
    for path in place.checkpoints.iterdir():
        path.unlink()
    other = finished(place.run({**config, "seed": 8}))
    assert other.complete["metrics"] != metrics


def houses(path: Path, *, rows: int = 400, price: str = "price") -> Path:
    """Prices that follow from two columns; a third is noise."""
    rng = random.Random(3)
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["rooms", "area", price, "number"])
        for _ in range(rows):
            rooms, area = rng.randint(1, 8), rng.uniform(20, 200)
            table.writerow(
                [rooms, f"{area:.2f}", f"{area * 2000 + rooms * 9000:.1f}", rng.random()]
            )
    return path


def regression(**hyperparameters: Any) -> dict[str, Any]:
    return job(
        mlp(16, outputs=1),
        loss="mse",
        dataset_uri="file:///data/houses.csv",
        epochs=40,
        checkpoint_every=0,
        hyperparameters={"trainer": "sklearn", "target": "price", "learning_rate": 0.01}
        | hyperparameters,
    )


def test_a_price_is_learned_from_a_table(place: Place, tmp_path: Path) -> None:
    place.data = houses(tmp_path / "houses.csv")
    config = regression()
    done = finished(place.run(config))
    metrics = done.complete["metrics"]
    assert metrics["r2"] > 0.98
    assert "accuracy" not in metrics
    x, y = held_out(config, place.data)
    off = np.abs(load_model(done.model).predict(x) - y).mean()
    assert off == pytest.approx(metrics["mae"], rel=1e-3)  # in the unit of the data


def test_a_folder_with_one_table_is_as_good_as_the_table(place: Place, tmp_path: Path) -> None:
    place.data = tmp_path / "data"
    place.data.mkdir()
    houses(place.data / "houses.csv", rows=50)
    finished(place.run({**regression(), "epochs": 1}))


def test_classes_of_a_table_keep_their_names(place: Place, tmp_path: Path) -> None:
    place.data = tmp_path / "animals.csv"
    rows = ["legs,weight,kind", *["4,30,dog", "2,1,bird", "0,5,fish"] * 20]
    place.data.write_text("\n".join(rows) + "\n")
    config = job(
        mlp(8, outputs=3),
        dataset_uri="file:///data/animals.csv",
        epochs=60,
        hyperparameters={"trainer": "sklearn", "target": "kind", "learning_rate": 0.02},
        checkpoint_every=0,
    )
    done = finished(place.run(config))
    model = load_model(done.model)
    assert model.classes == ("bird", "dog", "fish")
    assert list(model.predict(np.array([[4, 28], [0, 4.5]]))) == ["dog", "fish"]
    assert accuracy(done, config, place.data) == 1.0


def test_two_classes_with_one_unit_or_with_two(place: Place) -> None:
    for layers, loss in (
        ([*mlp(8, outputs=1), {"type": "Sigmoid"}], "bce"),
        (mlp(8, outputs=2), None),
    ):
        config = job(
            layers,
            loss=loss,
            dataset_uri="builtin:breast_cancer",
            epochs=10,
            checkpoint_every=0,
            hyperparameters={"trainer": "sklearn", "learning_rate": 0.01},
        )
        done = finished(place.run(config))
        x, y = held_out(config)
        model = load_model(done.model)
        assert (model.predict(x) == y).mean() > 0.93
        assert model.outputs(x).shape == (len(x), 1 if loss else 2)


def test_nothing_held_out_means_that_training_is_measured(place: Place) -> None:
    config = job(mlp(8), epochs=1, hyperparameters={"validation_split": 0, "trainer": "sklearn"})
    done = finished(place.run(config))
    assert not [name for name in done.of("progress")[0] if name.startswith("val_")]
    assert done.complete["metrics"]["loss"] == done.of("progress")[0]["loss"]


def test_early_stopping_keeps_the_best_epoch(place: Place) -> None:
    config = job(
        mlp(64),
        epochs=200,
        checkpoint_every=0,
        hyperparameters={
            "trainer": "sklearn",
            "learning_rate": 0.05,
            "early_stopping": {"patience": 2},
        },
    )
    done = finished(place.run(config))
    metrics, told = done.complete["metrics"], done.of("progress")
    best = min(told, key=lambda line: line["val_loss"])
    assert metrics["epochs"] == len(told) == best["epoch"] + 2 < 200
    assert metrics["best_epoch"] == best["epoch"]
    assert metrics["val_loss"] == best["val_loss"]
    assert accuracy(done, config) == pytest.approx(best["val_accuracy"])


@pytest.mark.parametrize(
    ("config", "texts"),
    [
        ("nonsense", ["no base64 of a JSON object"]),
        ("[]", ["is no base64 of"]),
        ({"command": ["true"]}, ["model_definition: is missing"]),
        (job([]), ["layers is empty"]),
        (job(mlp(4), dataset_uri=None), ["dataset_uri: is missing"]),
        (job(mlp(4), dataset_uri="builtin:nothing"), ["builtin:nothing is unknown", "digits"]),
        (job(mlp(4), dataset_uri="file:///x.csv"), ["file:///x.csv are not here"]),
        (job(mlp(4, outputs=3)), ["layers[1] (Dense)", "10 classes", "(10,)"]),
        (job([{"type": "Dense", "unit": 4}]), ["layers[0] (Dense)", "units is missing"]),
        (job(mlp(4), hyperparameters={"learning-rate": 1}), ["learning-rate is unknown"]),
        (
            job([{"type": "Conv2D", "filters": 2, "kernel_size": 3}, *mlp()]),
            ["layers[0] (Conv2D)", "(height, width, channels)", "(64,)"],
        ),
        (
            job(
                mlp(4),
                optimizer={"type": "sgd", "learning_rate": 1e30},
                hyperparameters={"trainer": "sklearn"},
            ),
            ["diverged", "lower learning_rate"],
        ),
    ],
    ids=lambda value: value[0][:30] if isinstance(value, list) else "",
)
def test_a_job_that_is_wrong_is_told_so(place: Place, config: Any, texts: list[str]) -> None:
    refused(place.run(config), *texts)


@pytest.mark.parametrize("trainer", ["sklearn", "pytorch"])
@pytest.mark.parametrize(
    ("checkpoint_every", "validation_split"), [(0, 0.2), (1, 0.2), (0, 0), (1, 0)]
)
def test_weights_that_are_no_numbers_are_never_a_success(
    request: pytest.FixtureRequest, trainer: str, checkpoint_every: int, validation_split: float
) -> None:
    """One step is enough to make them so, and its own loss was measured before it."""
    place: Place = request.getfixturevalue("torch_place" if trainer == "pytorch" else "place")
    config = job(
        [{"type": "Dense", "units": 16}, {"type": "Dense", "units": 1}],
        loss="mse",
        optimizer="sgd",
        dataset_uri="builtin:diabetes",
        batch_size=1000,
        epochs=1,
        checkpoint_every=checkpoint_every,
        hyperparameters={
            "trainer": trainer,
            "learning_rate": 1e30,
            "validation_split": validation_split,
        },
    )
    refused(place.run(config), "the training diverged; choose a lower learning_rate")
    assert not list((place.home / "output").iterdir())
    assert not list(place.checkpoints.iterdir())


def test_what_the_environment_lacks_is_named(place: Place) -> None:
    config = job(mlp(4), hyperparameters={"trainer": "pytorch"})
    refused(place.run(config), "needs torch", "pip install torch", code=Exit.ENVIRONMENT)


def test_memory_that_is_not_enough_is_said_as_the_node_looks_for_it(place: Place) -> None:
    done = place.run(job(mlp(2**36), hyperparameters={"trainer": "sklearn"}))
    assert done.code == Exit.MEMORY
    assert "memory was not enough" in done.complete["error"]
    assert any(line.startswith("MemoryError") for line in done.log.splitlines())


def test_credentials_in_a_url_are_not_repeated(place: Place) -> None:
    config = job(mlp(4), dataset_uri="https://me:secret@host.example/x.csv?key=secret")
    done = place.run(config)
    refused(done, "the data of https://host.example/x.csv are not here")
    assert "secret" not in done.log + json.dumps(done.lines)


def test_prints_of_a_library_do_not_reach_the_protocol(cold_place: Place) -> None:
    # when the trainer is loaded something prints, as frameworks do
    scratch = cold_place.home / "scratch"
    scratch.mkdir(parents=True)
    (scratch / "sitecustomize.py").write_text(
        "import os, sys\n"
        "def hook(event, args):\n"
        "    if event == 'import' and args[0] == 'sklearn.neural_network._base':\n"
        "        print('a print'); os.write(1, b'a write\\n'); os.system('echo a program')\n"
        "sys.addaudithook(hook)\n"
    )
    path = f"{scratch}:{Path(__file__).resolve().parents[3]}"
    done = finished(cold_place.run({**DIGITS, "epochs": 1}, PYTHONPATH=path))
    for text in ("a print", "a write", "a program"):
        assert text in done.log
