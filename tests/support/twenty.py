"""What the two files of the twenty faults share."""

from __future__ import annotations

import ast
from collections.abc import Collection
from pathlib import Path

import redis


def not_there(named: Collection[tuple[str, str]], below: Path) -> list[tuple[str, str]]:
    """Those tests of ``named``, by file and name, that are not there."""
    return [(file, name) for file, name in named if name not in _functions(below / file)]


def reset_connections(client: redis.Redis) -> None:
    """Of everybody else."""
    for kind in ("normal", "pubsub"):
        client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")


def _functions(file: Path) -> set[str]:
    tree = ast.parse(file.read_text())
    return {one.name for one in ast.walk(tree) if isinstance(one, ast.FunctionDef)}
