"""PyTorch: every layer, optimizer and loss, and whole runs."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.integration.runner.runs import ROOT, Place, job, mlp, torch_python
from tests.integration.runner.torch_checks import CHECKS
from worker.runner.data.split import held_out
from worker.runner.faults import Exit
from worker.runner.model_file import load_model
from worker.runner.trainers.choice import choose

pytestmark = pytest.mark.integration

CNN: list[dict[str, Any]] = [
    {"type": "Conv2D", "filters": 16, "kernel_size": 3, "padding": "same"},
    {"type": "BatchNorm"},
    {"type": "ReLU"},
    {"type": "MaxPool"},
    {"type": "Conv2D", "filters": 16, "kernel_size": 3, "activation": "Mish"},
    {"type": "Flatten"},
    {"type": "Dropout", "rate": 0.2},
    {"type": "Dense", "units": 10, "activation": "Softmax"},
]


def test_checks(tmp_path: Path) -> None:
    """All of `torch_checks`, in one process of a Python that has PyTorch; one is slow to start."""
    done = subprocess.run(
        [torch_python(), "-m", "tests.integration.runner.torch_checks"],
        cwd=ROOT,
        env={"PATH": os.defpath, "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    assert set(found) == set(CHECKS)
    wrong = [f"{name}:\n{trace}" for name, trace in found.items() if trace]
    assert not wrong, "\n".join(wrong)


def test_a_convolution_reads_digits(torch_place: Place) -> None:
    config = job(
        CNN,
        input_shape=[8, 8, 1],
        optimizer={"type": "adamw", "learning_rate": 0.003},
        metrics=["f1"],
        epochs=6,
        checkpoint_every=3,
        hyperparameters={"schedule": {"type": "cosine", "warmup_epochs": 1}, "gradient_clip": 5},
    )
    done = torch_place.run(config)
    assert done.code == Exit.DONE, done.log
    assert "PyTorch" in done.log
    assert done.complete["metrics"]["f1"] > 0.95
    x, y = held_out(config)
    model = load_model(done.model)  # this process has no PyTorch
    assert (model.predict(x) == y).mean() == pytest.approx(done.complete["metrics"]["accuracy"])
    assert done.complete["metrics"]["accuracy"] >= 0.95
    rates = [line["learning_rate"] for line in done.of("progress")]
    assert rates[0] == pytest.approx(0.0015)
    assert rates[1] == pytest.approx(0.003)
    assert rates == [rates[0], *sorted(rates[1:], reverse=True)]


def test_a_sequence_of_numbers_is_classified(torch_place: Place, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    x = random.integers(0, 12, (300, 6))
    torch_place.data = tmp_path / "words.npz"
    np.savez(torch_place.data, x=x, y=(x == 3).any(axis=1).astype(np.int64))
    layers: list[dict[str, Any]] = [
        {"type": "Embedding", "num_embeddings": 12, "embedding_dim": 8},
        {"type": "GRU", "units": 16, "bidirectional": True},
        {"type": "Dense", "units": 1, "activation": "sigmoid"},
    ]
    config = job(
        layers,
        loss="bce",
        dataset_uri="file:///data/words.npz",
        epochs=25,
        checkpoint_every=0,
        hyperparameters={"learning_rate": 0.02},
    )
    done = torch_place.run(config)
    assert done.code == Exit.DONE, done.log
    held_x, held_y = held_out(config, torch_place.data)
    assert (load_model(done.model).predict(held_x) == held_y).mean() > 0.9
    layers[0]["num_embeddings"] = 11
    refused = torch_place.run({**config, "model_definition": {"layers": layers, "loss": "bce"}})
    assert refused.code == Exit.JOB
    assert "layers[0] (Embedding): num_embeddings is 11" in refused.complete["error"]


def png(path: Path, rows: list[list[int]]) -> None:
    """A grey image."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checked = kind + data
        return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = struct.pack(">IIBBBBB", len(rows[0]), len(rows), 8, 0, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + bytes(row) for row in rows))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def test_folders_of_images_are_classes(torch_place: Place, tmp_path: Path) -> None:
    torch_place.data = tmp_path / "images"
    random = np.random.default_rng(0)
    for index in range(20):
        noise = random.integers(0, 60, (8, 8))
        upright, across = noise.copy(), noise.copy()
        upright[:, index % 8] = 255
        across[index % 8] = 255
        png(torch_place.data / "upright" / f"{index}.png", upright.tolist())
        png(torch_place.data / "across" / f"{index}.png", across.tolist())
    layers = [
        {"type": "Conv2D", "filters": 8, "kernel_size": 3, "activation": "relu"},
        {"type": "MaxPool", "pool_size": 6},
        {"type": "Flatten"},
        {"type": "Dense", "units": 2},
    ]
    config = job(
        layers,
        dataset_uri="file:///data/images",
        epochs=30,
        batch_size=8,
        checkpoint_every=0,
        hyperparameters={"image_color": "grayscale", "learning_rate": 0.02},
    )
    done = torch_place.run(config)
    assert done.code == Exit.DONE, done.log
    assert done.complete["metrics"]["accuracy"] > 0.8
    assert load_model(done.model).classes == ("across", "upright")


def test_pytorch_is_taken_where_it_is(torch_place: Place, place: Place) -> None:
    config = job(mlp(8), epochs=1)
    assert "PyTorch" in torch_place.run(config).log
    assert "scikit-learn" in place.run(config).log
    assert choose("sklearn") == "sklearn"
