"""Every example runs on a real node and does what examples/README.md says."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import JobFailed
from tasks.events import Checkpoint, Log
from tasks.outputs import artifacts
from tasks.state import FailureReason, JobState
from tests.integration.runner.runs import torch_python
from tests.support.cli import Cli
from tests.support.cluster import Cluster, started
from tests.support.live_node import LiveNode
from tests.support.redis_server import RedisServer
from worker.runner.data.split import held_out
from worker.runner.model_file import load_model

pytestmark = pytest.mark.e2e

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPTS = EXAMPLES / "scripts"
PLACE = "file:///srv/cyxwiz/"
"""Where examples/README.md has the scripts and the data put."""


@pytest.fixture
def place(data: Path) -> Path:
    """What README.md has a reader do, beneath the node's root."""
    shutil.copytree(SCRIPTS, data / "scripts", dirs_exist_ok=True)
    (data / "data").mkdir(exist_ok=True)
    houses = data / "data" / "houses.csv"
    subprocess.run([sys.executable, data / "scripts" / "houses.py", houses], check=True)
    return data


def example(name: str, place: Path | None = None) -> dict[str, Any]:
    """The job, with its files looked for beneath ``place``."""
    text = (EXAMPLES / "jobs" / f"{name}.json").read_text()
    found: dict[str, Any] = json.loads(text.replace(PLACE, f"file://{place}/"))
    return found


def accuracy(config: dict[str, Any], model: Path) -> float:
    """Of the model that the job left, on the samples that its training held out."""
    samples, labels = held_out(config)
    return float((load_model(model).predict(samples) == labels).mean())


def test_every_example_has_a_test_and_its_lines_in_the_readme() -> None:
    names = {path.stem for path in (EXAMPLES / "jobs").iterdir()}
    tested = {name.removeprefix("test_example_") for name in globals() if "test_example_" in name}
    assert names == tested
    readme = (EXAMPLES / "README.md").read_text()
    for path in (*(EXAMPLES / "jobs").iterdir(), *SCRIPTS.glob("*.py")):
        assert path.name in readme


def test_example_digits(cluster: Cluster) -> None:
    config = example("digits")
    job = cluster.submit(config)
    result = job.get(timeout=120)
    assert accuracy(config, Path(result["model_path"])) >= 0.95
    assert [one.epoch for one in cluster.progress(job)] == list(range(1, 21))


@pytest.fixture(scope="module")
def torch_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A node whose native jobs run with a Python that has PyTorch."""
    native = {"interpreter": torch_python()}
    with RedisServer() as server:
        node = LiveNode(
            directory=tmp_path_factory.mktemp("torch"),
            redis_url=server.url,
            extra={"native": native},
        )
        with started(node) as cluster:
            yield cluster
            cluster.wait_clean()


def test_example_cnn(torch_cluster: Cluster) -> None:
    config = example("cnn")
    job = torch_cluster.submit(config)
    result = job.get(timeout=110)
    path = Path(result["model_path"])
    assert load_model(path).layers[0].layer.kind == "Conv2D"
    assert accuracy(config, path) >= 0.97
    assert [one.epoch for one in torch_cluster.progress(job)] == list(range(1, 9))


def test_example_plain(torch_cluster: Cluster, tmp_path: Path) -> None:
    """A script that was written for a shell runs as it is: followed, and its model fetched."""
    shutil.copytree(SCRIPTS, torch_cluster.node.directory / "data" / "scripts", dirs_exist_ok=True)
    cli = Cli(cwd=tmp_path, env={"CYXWIZ_REDIS_URL": torch_cluster.settings.redis_url})
    job = tmp_path / "plain.json"
    job.write_text(json.dumps(example("plain", torch_cluster.node.directory / "data")))
    told = cli("submit", str(job), "--set", "args.1='2'", "--set", "job_id=plain-1", "--follow")
    assert told.code == 0, told
    lines = [line for line in told.out.splitlines() if "test accuracy" in line]
    assert len(lines) == 2, told.out
    assert "epoch 2 [1280/1438] loss" in told.out
    fetched = cli("get", "plain-1", str(tmp_path / "results"))
    assert fetched.code == 0, fetched
    assert [one.name for one in (tmp_path / "results").iterdir()] == ["digits.pt"]
    load = (
        "import sys, torch; print({k: list(v.shape) for k, v in torch.load(sys.argv[1]).items()})"
    )
    shapes = subprocess.check_output(
        [torch_python(), "-c", load, tmp_path / "results" / "digits.pt"], text=True
    )
    assert "'0.weight': [128, 64]" in shapes


def test_a_node_without_pytorch_says_what_the_cnn_lacks(cluster: Cluster) -> None:
    with pytest.raises(JobFailed, match="torch"):
        cluster.submit(example("cnn") | {"max_attempts": 1}).get(timeout=60)


def test_example_csv(cluster: Cluster, place: Path) -> None:
    config = example("csv", place)
    result = cluster.submit(config).get(timeout=120)
    samples, prices = held_out(config, place / "data" / "houses.csv")
    errors = load_model(Path(result["model_path"])).predict(samples) - prices
    assert float((errors**2).mean()) < 0.05 * float(prices.var())


def test_example_script(cluster: Cluster, place: Path, tmp_path: Path) -> None:
    job = cluster.submit(example("script", place))
    result = job.get(timeout=60)
    assert result["metrics"]["accuracy"] >= 0.9
    assert [one.epoch for one in cluster.progress(job)] == list(range(1, 11))
    saved = [one.event for one in cluster.events(job) if isinstance(one.event, Checkpoint)]
    assert [one.epoch for one in saved] == [5]
    [model] = artifacts(job.id, app=cluster.app)
    fetched = model.fetch(tmp_path)
    assert hashlib.sha256(fetched.read_bytes()).hexdigest() == result["sha256"]
    assert len(json.loads(fetched.read_text())["weights"]) == 3


def test_the_script_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    def run(name: str) -> tuple[str, str]:
        output = tmp_path / name
        output.mkdir()
        places = {"CYXWIZ_OUTPUT": str(output), "CYXWIZ_CHECKPOINTS": str(tmp_path)}
        said = subprocess.check_output(
            [sys.executable, SCRIPTS / "train.py"], env={**os.environ, **places}, text=True
        )
        return said, (output / "model.json").read_text()

    whole, model = run("whole")
    rest, same = run("rest")
    assert rest.startswith("goes on after epoch 5\n")
    assert rest.splitlines()[1:] == whole.splitlines()[6:]
    assert same == model


def test_example_lightning(cluster: Cluster, place: Path) -> None:
    job = cluster.submit(example("lightning", place))
    assert job.get(timeout=60)["model_path"].endswith("model.json")
    progress = cluster.progress(job)
    assert [(one.epoch, one.total_epochs) for one in progress] == [
        (epoch, 12) for epoch in range(1, 13)
    ]
    losses = [one.loss for one in progress if one.loss is not None]
    assert losses[-1] < 0.5 * losses[0]
    logs = [one.event for one in cluster.events(job) if isinstance(one.event, Log)]
    lines = [line for log in logs for line in log.lines]
    assert lines == [f"epoch {epoch}: 500/500" for epoch in range(12)], "the bar's last states"


def test_example_failing(cluster: Cluster, place: Path) -> None:
    job = cluster.submit(example("failing", place))
    with pytest.raises(JobFailed):
        job.get(timeout=60)
    record = cluster.record(job)
    assert (record.state, record.reason) == (JobState.FAILED, FailureReason.USER_ERROR)
    assert record.attempt == 1, "what the job itself does wrong is not tried again"
    assert [one.loss for one in cluster.progress(job)] == [4, 16, 64, 256]
    assert "choose a smaller learning_rate" in cluster.logged(job)[-1]
    mended = example("failing", place) | {"hyperparameters": {"learning_rate": 0.1}}
    cluster.submit(mended).get(timeout=60)


def test_example_command(cluster: Cluster) -> None:
    job = cluster.submit(example("command"))
    job.get(timeout=60)
    assert [one.epoch for one in cluster.progress(job)] == [1, 2, 3, 4, 5]
