"""What holds for the whole repository: its shape, its lock, and what an import brings along."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parents[2]
TOP_LEVEL = {
    *("tasks", "worker", "images", "compose", "tests", "docs", "benchmarks", "examples", "scripts"),
    *("Makefile", "pyproject.toml", "requirements.lock", "README.md", "CHANGELOG.md", "LICENSE"),
    *(".ci", ".gitignore", ".editorconfig", ".dockerignore"),
}
_LOADED = "import json, sys; print(json.dumps(sorted(sys.modules)))"
_POSIX_ONLY = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}


def git(*words: str) -> list[str]:
    """The lines that git says about this checkout."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("this is no git checkout, or git is not installed")
    said = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True)
    return said.stdout.splitlines()


def loaded_by(code: str, options: Sequence[str] = ()) -> set[str]:
    """The modules that a new Python has after ``code``."""
    said = subprocess.run(
        [sys.executable, *options, "-c", f"{code}\n{_LOADED}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 0, said.stderr
    return set(json.loads(said.stdout.splitlines()[-1]))


def packages(modules: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in modules}


def imports(path: Path) -> Iterator[str]:
    """The packages that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def test_nothing_else_stands_at_the_top_level() -> None:
    assert {path.partition("/")[0] for path in git("ls-files")} - TOP_LEVEL == set()


def test_the_lock_has_a_hash_for_everything_and_no_address() -> None:
    text = (ROOT / "requirements.lock").read_text()
    assert "://" not in text
    assert not re.search(r"^\s*-(?!-hash)", text, re.MULTILINE), "an option, such as an index"
    wanted = re.split(r"\n(?=[a-z])", "\n" + text.strip())[1:]
    assert len(wanted) > 50
    for requirement in wanted:
        assert re.match(r"[a-z0-9-]+==\S+( ;[^\\]+)? \\\n", requirement), requirement
        assert "--hash=sha256:" in requirement, requirement


def test_the_lock_has_what_the_project_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    asked = [requirement for group in groups for requirement in group]
    locked = re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    names = {re.split(r"[\[<>=;! ]", requirement, maxsplit=1)[0] for requirement in asked}
    assert names - set(locked) == set()


def test_a_producers_import_brings_nothing_of_the_node() -> None:
    found = packages(loaded_by("import tasks; tasks.train; tasks.follow; tasks.cancel"))
    assert "celery" in found
    assert found & {"docker", "pynvml", "worker", "rich", "numpy", "sklearn"} == set()


@pytest.mark.parametrize("module", ["job", "events", "state", "routing", "keys", "record"])
def test_a_job_is_described_without_celery(module: str) -> None:
    assert packages(loaded_by(f"import tasks.{module}")) & {"celery", "kombu"} == set()


def test_tasks_imports_nothing_that_other_systems_lack() -> None:
    # `make lint` checks the same of every function it calls: mypy --platform win32
    found = {(path.name, name) for path in (ROOT / "tasks").rglob("*.py") for name in imports(path)}
    assert len(found) > 50
    assert {pair for pair in found if pair[1] in _POSIX_ONLY} == set()


def test_the_runner_imports_the_standard_library_alone() -> None:
    # without site-packages, as in an image that has only a framework and the runner
    runner = ROOT / "worker" / "runner"
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in sorted(runner.rglob("*.py"))
        if path.name != "__main__.py"
    ]
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import {', '.join(modules)}"
    found = loaded_by(code, ["-I", "-S"])
    assert set(modules) <= found
    assert packages(found) - set(sys.stdlib_module_names) - {"__main__"} == {"worker"}
    ours = {name for name in found if name.partition(".")[0] == "worker"}
    assert {name for name in ours - {"worker"} if not name.startswith("worker.runner")} == set()


def test_make_help_tells_of_every_target() -> None:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    said = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    for target in ("env", "demo", "test", "lint", "bench"):
        assert re.search(rf"make {target}\s+\S", said.stdout), said.stdout


def test_a_built_wheel_has_all_that_it_needs(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("tasks", "worker"):
        shutil.copytree(
            ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
        )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = "import sys, setuptools.build_meta as b; b.build_wheel(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", build, str(tmp_path)], cwd=source, capture_output=True, check=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        found = set(packed.namelist())
    wanted = {
        str(path.relative_to(source))
        for name in ("tasks", "worker")
        for path in (source / name).rglob("*")
        if path.is_file()
    }
    assert any(name.endswith(".lua") for name in wanted)
    assert wanted - found == set()
    assert not any(name.startswith("tests") for name in found)
