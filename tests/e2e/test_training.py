"""A real model, trained on real data by a real node, is as good as its job says."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from tests.support.cluster import Cluster
from worker.runner.data.split import held_out
from worker.runner.model_file import load_model

pytestmark = pytest.mark.e2e

EXAMPLES = Path(__file__).parents[2] / "examples" / "jobs"


def test_digits(cluster: Cluster) -> None:
    config = json.loads((EXAMPLES / "digits.json").read_text())
    job = cluster.submit(config)
    result = job.get(timeout=120)
    path = Path(result["model_path"])
    assert hashlib.sha256(path.read_bytes()).hexdigest() == result["sha256"]
    model = load_model(path)
    samples, labels = held_out(config)
    accuracy = float((model.predict(samples) == labels).mean())
    assert accuracy >= 0.95
    assert result["metrics"]["accuracy"] == pytest.approx(accuracy, abs=1e-6)
    epochs = [one.epoch for one in cluster.progress(job)]
    assert epochs == list(range(1, config["epochs"] + 1))
    assert all(0 < one.progress <= 1 for one in cluster.progress(job))


def test_a_csv_file(cluster: Cluster, data: Path) -> None:
    rows = [(a, b, 3 * a - 2 * b + 1) for a in range(20) for b in range(20)]
    text = "\n".join(["a,b,price", *(f"{a},{b},{price}" for a, b, price in rows)])
    (data / "houses.csv").write_text(text)
    config = json.loads((EXAMPLES / "csv.json").read_text())
    config["dataset_uri"] = f"file://{data}/houses.csv"
    result = cluster.submit(config).get(timeout=120)
    model = load_model(Path(result["model_path"]))
    samples, prices = held_out(config, data / "houses.csv")
    errors = model.predict(samples).reshape(-1) - prices.reshape(-1)
    assert float((errors**2).mean()) < 0.05 * float(prices.var())


def test_the_same_seed_gives_the_same_model(cluster: Cluster) -> None:
    config = json.loads((EXAMPLES / "digits.json").read_text()) | {"epochs": 3}
    first, second = (cluster.submit(config).get(timeout=120) for _ in range(2))
    assert first["metrics"] == second["metrics"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"dataset_uri": "builtin:nothing"}, "nothing"),
        ({"dataset_uri": None}, "dataset_uri"),
    ],
)
def test_what_cannot_be_trained_is_said(
    cluster: Cluster, change: dict[str, object], said: str
) -> None:
    config = json.loads((EXAMPLES / "digits.json").read_text()) | change | {"max_attempts": 1}
    job = cluster.submit(config)
    with pytest.raises(Exception, match=said):
        job.get(timeout=120)
