"""docs/security.md names a test for each promise, and the test is there; nothing unpickles."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
PROMISES = [
    line.strip("|").split("|")
    for line in PAGE.split("\n## Promises\n")[1].split("\n## ")[0].splitlines()
    if line.startswith("| ") and not line.startswith("| Promise")
]


def names_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


@pytest.mark.parametrize("row", PROMISES, ids=lambda row: row[0].strip()[:60])
def test_each_promise_has_a_test_that_attacks_it(row: list[str]) -> None:
    attacks, on_podman = (
        re.findall(r"`(tests/[a-z0-9_/]+\.py)::(test_\w+)`", cell) for cell in row[1:3]
    )
    assert attacks, "it has none"
    assert row[2].strip(), "and on Podman?"
    for path, name in attacks + on_podman:
        assert name in names_in(ROOT / path), f"{path} has no {name}"


def test_there_are_promises() -> None:
    assert len(PROMISES) >= 20


CODE = frozenset({"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"})


@pytest.mark.parametrize("package", ["tasks", "worker"])
def test_nothing_of_the_project_unpickles(package: str) -> None:
    """Neither the node nor the runner inside, nor a producer: what it reads may be anybody's."""
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            imported: list[str] = []
            if isinstance(node, ast.Import):
                imported = [one.name for one in node.names]
            elif isinstance(node, ast.ImportFrom):
                imported = [node.module or ""]
            assert not {one.partition(".")[0] for one in imported} & CODE, path
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in {"torch.load", "eval", "exec"}, (path, called)
                assert not any(
                    word.arg == "allow_pickle" and ast.unparse(word.value) != "False"
                    for word in node.keywords
                ), path
