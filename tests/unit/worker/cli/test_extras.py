"""What is said of a module that is not installed."""

from __future__ import annotations

import tomllib
from importlib.metadata import packages_distributions

import pytest

from tests.support.cli import ROOT
from tests.support.installed import distributions, plain
from worker.cli.exits import ExitCode, exit_code, told
from worker.cli.extras import _BRING

pytestmark = pytest.mark.unit

OWNERS = packages_distributions()
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
    "optional-dependencies"
]


@pytest.mark.parametrize(("module", "extra"), _BRING.items())
def test_the_extra_that_is_named_brings_the_module(module: str, extra: str) -> None:
    owners = {plain(owner) for owner in OWNERS[module]}
    assert owners & distributions([extra])
    assert not owners & distributions([]), "it is there without"
    error = ModuleNotFoundError(f"No module named {module!r}", name=f"{module}.part")
    assert f"pip install 'cyxwiz-worker[{extra}]'" in told(error)
    assert exit_code(error) is ExitCode.INVALID


def test_a_module_of_our_own_that_is_missing_is_a_fault_of_this_program() -> None:
    error = ModuleNotFoundError("No module named 'worker.none'", name="worker.none")
    assert "report it" in told(error)
    assert exit_code(error) is ExitCode.INTERNAL


def test_a_node_can_say_every_command() -> None:
    for extra in ("cli", "sign", "fetch"):
        assert set(EXTRAS[extra]) <= set(EXTRAS["node"])
