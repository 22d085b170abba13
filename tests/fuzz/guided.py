"""One of the targets, by libFuzzer: python -m tests.fuzz.guided TARGET [CORPUS] [OPTION…]

It prefers what reaches code that it has not run before, and leaves what crashes as a file: put that
into ``tests/fuzz/corpus/TARGET``, and the tests try it for ever.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["tasks", "worker"]):
    from tests.fuzz.targets import TARGETS


def main() -> None:
    name, *options = sys.argv[1:]
    atheris.Setup([sys.argv[0], *options], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
