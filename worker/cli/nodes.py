"""``cyxwiz nodes``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from worker.cli.cluster import looking, page_options
from worker.cli.exits import guarded
from worker.cli.hub import hub_options, json_option
from worker.cli.text import duration, note, safe, say, say_json, table

if TYPE_CHECKING:
    from tasks.cluster import NodeView

_HEAD: Final = ("NODE", "STATUS", "BUSY", "SANDBOX", "POOL", "SEEN", "JOBS")
_LEVELS: Final = {0: "none", 1: "basic", 2: "full"}


@click.command()
@page_options
@hub_options
@json_option
@guarded
def nodes(
    limit: int, after: str, redis_url: str | None, config_path: Path | None, as_json: bool
) -> None:
    """List the nodes: those that live, and those that went silent within a day."""
    with looking(redis_url, config_path) as cluster:
        page = cluster.nodes(limit=limit, after=after)
    if as_json:
        say_json({"nodes": [as_object(one) for one in page.items], "next": page.next or None})
        return
    say(table([_HEAD, *(_row(one) for one in page.items)]))
    if page.next:
        note(f"more: --after {page.next}")


def as_object(node: NodeView) -> dict[str, Any]:
    """For programs."""
    return {
        **asdict(node),
        "cordon": None if node.cordon is None else asdict(node.cordon),
        "busy": node.busy,
    }


def status_text(node: NodeView) -> str:
    """``ready``, ``cordoned``, ``lost`` …"""
    if node.problem:
        return "unreadable"
    if node.status != "alive":
        return str(node.status)
    return "cordoned" if node.cordon is not None else node.state


def _row(node: NodeView) -> tuple[str, ...]:
    said = [f"{slot.name}: {slot.job_id}" for slot in node.slots if slot.job_id]
    if node.cordon is not None and node.cordon.why:
        said.insert(0, f"({node.cordon.why})")
    if node.problem:
        said.insert(0, f"({node.problem})")
    return (
        safe(node.name),
        safe(status_text(node)),
        f"{node.busy}/{len(node.slots)}",
        _LEVELS.get(node.sandbox_level, "?"),
        safe(node.pool) or "-",
        f"{duration(node.silent_seconds)} ago",
        safe("  ".join(said)),
    )
