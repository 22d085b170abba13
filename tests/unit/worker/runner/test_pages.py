"""The pages about the runner: what they show works, what they list is all there is."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.job import JobConfig
from worker.runner import helper
from worker.runner.faults import Exit
from worker.runner.jobspec import job_spec
from worker.runner.model import layers
from worker.runner.model.head import fit
from worker.runner.options import OPTIMIZERS, parse
from worker.runtimes.base import Chunk, Stream
from worker.stream.decoder import Decoder

pytestmark = pytest.mark.unit

DOCS = Path(__file__).resolve().parents[4] / "docs"


def blocks(page: str, language: str) -> list[str]:
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def test_the_definition_that_is_shown_is_one() -> None:
    (shown,) = blocks("model-definition.md", "json")
    job = job_spec(JobConfig.parse(shown).to_wire())
    options = parse(job.hyperparameters, job.optimizer)
    assert options.early_stopping is not None
    assert job.input_shape is not None
    fit(layers.parse(job.layers), job.input_shape, loss=job.loss, classes=10, targets=1)


def test_everything_is_listed() -> None:
    page = (DOCS / "model-definition.md").read_text(encoding="utf-8")
    for kind, parameters in layers.LAYERS.items():
        assert f"`{kind}`" in page
        for name in parameters:
            assert f"`{name}`" in page, (kind, name)
    for kind, (_, parameters) in OPTIMIZERS.items():
        assert f"`{kind}`" in page
        for name in parameters:
            assert f"`{name}`" in page, (kind, name)
    with pytest.raises(Exception, match="known: ") as caught:
        parse({"?": 1}, None)
    for name in str(caught.value).partition("known: ")[2].split(", "):
        assert f"`{name}`" in page, name
    for status in Exit:
        assert f"| {int(status)} |" in page


@pytest.mark.parametrize("page", ["reporting.md", "checkpoints.md"])
def test_the_scripts_that_are_shown_report(page: str, tmp_path: Path) -> None:
    (program,) = blocks(page, "python")
    shutil.copy(helper.__file__, tmp_path / "cyxwiz_progress.py")
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={"PATH": os.defpath},
        capture_output=True,
        check=True,
    )
    decoder = Decoder("job-1", 5)
    chunk = Chunk(stream=Stream.STDOUT, offset=0, data=done.stdout)
    events = [said.event for said in decoder.feed(chunk)]
    assert [event.epoch for event in events if event.type == "progress"] == [1, 2, 3, 4, 5]
    assert decoder.completion is not None
    assert decoder.completion.success
    assert not [event for event in events if event.type == "log"]


def test_the_model_is_loaded_as_shown(tmp_path: Path) -> None:
    (program,) = blocks("model-definition.md", "python")
    config = {
        "model_definition": {"layers": [{"type": "Dense", "units": 10}]},
        "dataset_uri": "builtin:digits",
        "seed": 7,
        "epochs": 5,
        "checkpoint_every": 0,
    }
    root = DOCS.parent
    env = {"PATH": os.defpath, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    trained = subprocess.run(
        [sys.executable, "-m", "worker.runner", f"--job-config={json.dumps(config)}"],
        cwd=tmp_path,
        env={**env, "CYXWIZ_OUTPUT": ".", "CYXWIZ_CHECKPOINTS": "."},
        capture_output=True,
        check=True,
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    said = json.loads(trained.stdout.splitlines()[-1])["metrics"]["accuracy"]
    assert float(done.stdout) == pytest.approx(said)
    assert said > 0.7
