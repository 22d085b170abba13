"""Runs every benchmark, or those named, each in a process of its own."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
NOT_BENCHMARKS = {"__init__", "__main__", "report", "support", "bare"}


def names() -> list[str]:
    """All benchmarks there are."""
    return sorted(path.stem for path in HERE.glob("*.py") if path.stem not in NOT_BENCHMARKS)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names())}")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    asked = parser.parse_args()
    unknown = sorted(set(asked.names) - set(names()))
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(names())}")
    codes = [
        subprocess.run(
            [sys.executable, "-m", f"benchmarks.{name}", *(["--json"] if asked.json else [])],
            cwd=HERE.parent,
            check=False,
        ).returncode
        for name in asked.names or names()
    ]
    return 1 if any(codes) else 0


if __name__ == "__main__":
    sys.exit(main())
