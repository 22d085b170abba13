"""A process that takes devices and keeps them until its stdin ends."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.integration.devices.node import Node

if __name__ == "__main__":
    held = Node(Path(sys.argv[1])).take(int(sys.argv[2]))
    print("held", *held.grant.devices, flush=True)
    sys.stdin.read()
