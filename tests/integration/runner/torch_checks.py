"""Checks that need PyTorch, Pillow and pyarrow, run by a Python that has them.

``python -m tests.integration.runner.torch_checks`` runs all in one process, as loading PyTorch
takes longer than any of them, and prints a JSON object: what went wrong with each, or ''.
`test_torch` looks at that.
"""

from __future__ import annotations

import json
import sys
import tempfile
import traceback
from pathlib import Path

from tests.integration.runner import data_checks, trainer_checks
from tests.integration.runner.checking import Check

CHECKS: dict[str, Check] = {**trainer_checks.CHECKS, **data_checks.CHECKS}


def main() -> int:
    found = {}
    for name, check in CHECKS.items():
        with tempfile.TemporaryDirectory() as directory:
            try:
                check(Path(directory))
                found[name] = ""
            except Exception:
                found[name] = traceback.format_exc()
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
