"""Versions of the engines' parts that have known holes. Pure.

A distribution may have mended them under an old number, so what is found here is a warning and no
proof.
"""

from __future__ import annotations

import re
from typing import Final

from worker.sandbox.engine_report import EngineFacts

_NUMBERS: Final = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?")
_RUNC: Final = "CVE-2025-31133, CVE-2025-52565 and CVE-2025-52881"
_TOOLKIT: Final = "CVE-2024-0132, CVE-2025-23359 and CVE-2025-23266"


def known_holes(facts: EngineFacts) -> list[str]:
    """What is known of these versions, for people."""
    found = []
    if facts.runtime.startswith("runc"):
        version = _version(facts.runtime)
        if version and (version < (1, 2, 8) or (1, 3, 0) <= version < (1, 3, 3)):
            found.append(
                f"{facts.runtime} has known holes ({_RUNC}), unless your distribution has mended "
                "them: 1.2.8 and 1.3.3 are without"
            )
    toolkit = facts.toolkit.partition(" ")[0]  # what follows is how it was found
    version = _version(toolkit) if toolkit[:1].isdigit() else None
    if version and version < (1, 17, 8):
        found.append(
            f"NVIDIA container toolkit {toolkit} has known holes ({_TOOLKIT}), unless your "
            "distribution has mended them: 1.17.8 is without"
        )
    return found


def _version(text: str) -> tuple[int, int, int] | None:
    found = _NUMBERS.search(text)
    if found is None:
        return None
    return int(found[1]), int(found[2]), int(found[3] or 0)
