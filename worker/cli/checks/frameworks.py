"""What the built-in runner could train with, in the interpreter that native jobs get."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Final

from worker.cli.checks.base import Check, Situation, missing, ok

_NEEDS: Final = ("numpy", "safetensors")
_TRAINERS: Final = ("scikit-learn", "torch")
_ASK: Final = """
import json, sys
from importlib.metadata import PackageNotFoundError, version
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = version(name)
    except PackageNotFoundError:
        pass
print(json.dumps(found))
"""
_WHY: Final = "jobs with a model_definition cannot run natively; command jobs can"


def check_runner(situation: Situation) -> Check:
    """scikit-learn or PyTorch, and what both need."""
    name = "runner"
    interpreter = str(situation.config.native.interpreter or Path(sys.executable))
    try:
        done = subprocess.run(
            [interpreter, "-c", _ASK, *_NEEDS, *_TRAINERS],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
            stdin=subprocess.DEVNULL,
        )
        found: dict[str, str] = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        return missing(
            name,
            f"{interpreter} does not answer",
            why=f"{_WHY}: {error}",
            todo="set native.interpreter to a Python of at least 3.11",
        )
    lacking = [one for one in _NEEDS if one not in found]
    if not any(one in found for one in _TRAINERS):
        lacking.append("scikit-learn or torch")
    told = ", ".join(f"{one} {version}" for one, version in found.items()) or "nothing"
    if lacking:
        return missing(
            name,
            f"{told} in {interpreter}",
            why=f"{_WHY}: {', '.join(lacking)} is not installed",
            todo=f"{interpreter} -m pip install 'cyxwiz-worker[runner]'",
        )
    without = "" if "torch" in found else " (no PyTorch: layers such as Conv2D are refused)"
    return ok(name, f"{told}{without}")
