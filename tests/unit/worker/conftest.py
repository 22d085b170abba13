"""What tests of a node's configuration share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write_text(text: str | bytes) -> Path:
        path = tmp_path / "server-node.yaml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return write_text
