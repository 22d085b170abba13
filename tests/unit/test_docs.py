"""The examples in the documentation do what they say."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.errors import InvalidJob
from tasks.events import Progress
from tasks.job import JobConfig
from tasks.job_rules import RESERVED_ENV
from worker.config import ExecutionMode, load
from worker.result import missing_output
from worker.runtimes.base import Chunk, Stream
from worker.stream.decoder import Decoder

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(path.relative_to(ROOT) for path in (ROOT / "docs").glob("*.md"))


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


def test_the_table_of_a_jobs_fields_has_them_all_with_their_defaults() -> None:
    page = (ROOT / "docs" / "producers.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| `(\w+)` \| [^|]+ \| (?:`(.+)`|–) \| ",
        page.partition("\n### Fields\n")[2],
        re.MULTILINE,
    )
    documented = {name: json.loads(default or "null") for name, default in rows}
    assert len(documented) == len(rows)
    defaults = {
        name: info.get_default(call_default_factory=True)
        for name, info in JobConfig.model_fields.items()
    }
    assert documented == json.loads(json.dumps(defaults))
    (of_env,) = re.findall(r"^\| `env` .*None begins with (.*): those", page, re.MULTILINE)
    assert tuple(re.findall(r"`(\w+)`", of_env)) == RESERVED_ENV


def test_the_producers_job_on_gpus_is_one_and_needs_its_device() -> None:
    (text,) = blocks("docs/producers.md", "json")
    assert JobConfig.parse(text).width == 2
    alone = {name: value for name, value in json.loads(text).items() if name != "required_device"}
    with pytest.raises(InvalidJob, match="say cuda or rocm"):
        JobConfig.parse(alone)


def test_the_pages_have_every_variable_of_the_hub() -> None:
    source = (ROOT / "tasks" / "settings.py").read_text(encoding="utf-8")
    variables = set(re.findall(r"\bCYXWIZ_[A-Z]+(?:_[A-Z]+)*\b", source))
    assert len(variables) == 4
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert {name for name in variables if f"`{name}`" not in page} == set()


def prose(page: Path) -> str:
    """A page without its code."""
    text = page.read_text(encoding="utf-8")
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """What a link to a part of the page may say after '#'."""
    titles = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", [Path("README.md"), Path("examples/README.md"), *PAGES], ids=str)
def test_what_a_page_links_to_is_there(page: Path) -> None:
    here = ROOT / page
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", prose(here)):
        name, _, part = link.partition("#")
        there = here.parent / name if name else here
        assert there.exists(), link
        assert not part or part in anchors(there), link


@pytest.mark.parametrize("page", [Path("README.md"), Path("examples/README.md"), *PAGES], ids=str)
def test_the_jobs_that_pages_submit_are_there(page: Path) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for one in re.findall(r"[\w./-]*examples/jobs/[\w.-]+", text):
        assert (ROOT / one.removeprefix("../")).is_file(), one


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
