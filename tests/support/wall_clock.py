"""The wall clock of one node, set by a file."""

from __future__ import annotations

from pathlib import Path

_SHIM = Path(__file__).with_name("clock")


class WallClock:
    """A node that is started with `env` has this clock; others keep the host's."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.set(0.0)

    @property
    def env(self) -> dict[str, str]:
        return {"PYTHONPATH": str(_SHIM), "CYXWIZ_TEST_CLOCK": str(self._file)}

    def set(self, offset: float) -> None:
        """Seconds before or after the host's clock; known to the node within 0.2 s."""
        self._file.write_text(f"{offset}")
