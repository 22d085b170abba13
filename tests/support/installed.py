"""An environment that has what pip would install for some extras of the package, and no more.

    python -m tests.support.installed EXTRAS PROGRAM [ARGUMENT ...]

runs PROGRAM, a module, in it; EXTRAS are separated by commas, and may be none (``''``). The tests'
own environment has everything: modules of any other distribution are not found.
"""

from __future__ import annotations

import re
import runpy
import sys
import tomllib
from collections.abc import Iterable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path
from types import ModuleType

from packaging.requirements import Requirement

PROJECT = "cyxwiz-worker"
ROOT = Path(__file__).parents[2]


def plain(name: str) -> str:
    """The one spelling of a distribution's name."""
    return re.sub(r"[-_.]+", "-", name).lower()


def distributions(extras: Iterable[str]) -> set[str]:
    """The project with these extras, and all that they need."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    first = [*project["dependencies"]]
    for extra in extras:
        first += project["optional-dependencies"][extra]
    found: set[tuple[str, str]] = set()
    waiting = [one for text in first for one in _asked(text, "")]
    while waiting:
        one = waiting.pop()
        if one in found:
            continue
        found.add(one)
        name, extra = one
        try:
            needs = requires(name) or []
        except PackageNotFoundError:  # another system's
            continue
        waiting += [more for text in needs for more in _asked(text, extra)]
    return {PROJECT, *(name for name, _ in found)}


def _asked(requirement: str, extra: str) -> list[tuple[str, str]]:
    """The distribution that ``extra`` of another asks for so, with each of its own extras."""
    needed = Requirement(requirement)
    if needed.marker is not None and not needed.marker.evaluate({"extra": extra}):
        return []
    return [(plain(needed.name), more) for more in ("", *needed.extras)]


class _Others(MetaPathFinder):
    """Finds nothing of other distributions, as if they were not there."""

    def __init__(self, installed: set[str]) -> None:
        self._hidden = {
            module
            for module, owners in packages_distributions().items()
            if not {plain(owner) for owner in owners} & installed
        }

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name.partition(".")[0] in self._hidden:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None


def main(extras: str, program: str, *arguments: str) -> None:
    sys.meta_path.insert(0, _Others(distributions(one for one in extras.split(",") if one)))
    sys.argv = [program, *arguments]
    runpy.run_module(program, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
