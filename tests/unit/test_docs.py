"""The examples in the documentation do what they say."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.events import Progress
from tasks.job import JobConfig
from worker.config import ExecutionMode, load
from worker.result import missing_output
from worker.runtimes.base import Chunk, Stream
from worker.stream.decoder import Decoder

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parents[2]


def blocks(path: str, language: str) -> list[str]:
    """The code of that language in a page."""
    text = (ROOT / path).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def decoded(program_or_line: bytes) -> tuple[Decoder, list[object]]:
    decoder = Decoder("job-1", 5)
    chunk = Chunk(stream=Stream.STDOUT, offset=0, data=program_or_line)
    return decoder, [said.event for said in decoder.feed(chunk)]


def test_the_readmes_job_is_one() -> None:
    (program,) = blocks("README.md", "python")
    (call,) = [
        node
        for node in ast.walk(ast.parse(program))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "train.delay"
    ]
    job = JobConfig.parse(ast.literal_eval(call.args[0]))
    assert job.dataset_uri == "builtin:digits"


@pytest.mark.parametrize("path", sorted((ROOT / "examples" / "jobs").glob("*.json")), ids=str)
def test_the_examples_are_jobs(path: Path) -> None:
    JobConfig.parse(path.read_text())


def test_the_delivered_configuration_takes_no_untrusted_job() -> None:
    config = load(ROOT / "compose" / "server-node.yaml", {})
    assert config.execution.mode is ExecutionMode.AUTO
    assert not config.execution.allow_untrusted_native


def test_the_contracts_program_reports_and_leaves_its_model(tmp_path: Path) -> None:
    (program,) = blocks("docs/job-contract.md", "python")
    said = subprocess.run(
        [sys.executable, "-c", program],
        env={"CYXWIZ_OUTPUT": str(tmp_path)},
        capture_output=True,
        check=True,
    )
    decoder, events = decoded(said.stdout)
    assert [event.epoch for event in events if isinstance(event, Progress)] == [1, 2, 3, 4, 5]
    assert decoder.completion is not None
    assert decoder.completion.success
    assert missing_output(decoder.completion, tmp_path) == ""


def test_the_contracts_lines_are_understood() -> None:
    for line in blocks("docs/job-contract.md", "json"):
        decoder, events = decoded(line.encode())
        kinds = [event.type for event in events]  # type: ignore[attr-defined]  # events have one
        kinds += ["complete"] if decoder.completion else []
        assert kinds == [json.loads(line)["type"]]
