"""How ``cyxwiz top`` looks. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tasks.cluster import Capacity, NodeView, QueueView
from worker.cli.nodes import as_object as node_object
from worker.cli.nodes import status_text
from worker.cli.text import duration, number, safe

if TYPE_CHECKING:
    from tasks.listing import Listed

_COLOURS: Final = {
    "ready": "green",
    "starting": "yellow",
    "cordoned": "yellow",
    "draining": "yellow",
    "lost": "red",
    "gone": "bright_black",
    "unreadable": "red",
}
_FIXED_LINES: Final = 8
"""Headings and the lines between the tables."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """The cluster at one moment."""

    capacity: Capacity
    nodes: tuple[NodeView, ...]
    jobs: tuple[Listed, ...]
    """That have a slot."""
    queues: tuple[QueueView, ...]
    """In which jobs wait."""


def as_object(seen: Snapshot) -> dict[str, Any]:
    """For programs."""
    return {
        "capacity": asdict(seen.capacity),
        "nodes": [node_object(one) for one in seen.nodes],
        "jobs": [asdict(one) for one in seen.jobs],
        "queues": [asdict(one) for one in seen.queues],
    }


def drawn(seen: Snapshot, *, height: int | None) -> RenderableType:
    """As many rows of each as fit into ``height`` lines; None: all."""
    room = None if height is None else max(3, height - _FIXED_LINES)
    jobs, nodes, queues = _shares(room, (len(seen.jobs), len(seen.nodes), len(seen.queues)))
    return Group(
        _headline(seen.capacity),
        Text(),
        _jobs(seen.jobs[:jobs]),
        Text(),
        _nodes(seen.nodes[:nodes]),
        Text(),
        _queues(seen.queues[:queues]),
    )


def _shares(room: int | None, wanted: tuple[int, ...]) -> tuple[int, ...]:
    """Lines for each: nobody gets more than it wants, and what one leaves is the others'."""
    if room is None or sum(wanted) <= room:
        return wanted
    given, left = [0] * len(wanted), room
    while left > 0:
        for place, want in enumerate(wanted):
            if given[place] < want and left > 0:
                given[place] += 1
                left -= 1
    return tuple(given)


def _headline(capacity: Capacity) -> Text:
    kinds = "  ".join(
        f"{kind} slots {one.busy}/{one.slots}"
        for kind, one in capacity.kinds.items()
        if one.slots or one.busy
    )
    lost = f" ({capacity.lost} lost)" if capacity.lost else ""
    return Text(
        f"{capacity.nodes} nodes{lost}  {kinds}  {capacity.running} jobs run, "
        f"{capacity.waiting} wait"
    )


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, show_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name, no_wrap=True, overflow="ellipsis")
    return table


def _jobs(jobs: tuple[Listed, ...]) -> Table:
    table = _table("JOB", "STATE", "PROGRESS", "", "LOSS", "WHERE", "USER")
    for job in jobs:
        done, said = progress_of(job.progress)
        loss = job.progress.get("loss")
        table.add_row(
            Text(safe(job.job_id)),
            Text(str(job.state)),
            ProgressBar(total=1.0, completed=done or 0.0, width=20),
            Text(said),
            Text(number(loss) if isinstance(loss, int | float) else "-"),
            Text(f"{job.node}/{job.slot}"),
            Text(safe(job.user_id) or "-"),
        )
    return table


def progress_of(event: Mapping[str, Any]) -> tuple[float | None, str]:
    """How far a job is, by its own word: 0 to 1, and in words; None and '' for silence."""
    total, epoch = event.get("total_epochs"), event.get("epoch", 0)
    if not isinstance(total, int | float) or not isinstance(epoch, int | float) or not total:
        return None, ""
    return min(1.0, max(0.0, epoch / total)), f"{epoch:g}/{total:g}"


def _nodes(nodes: tuple[NodeView, ...]) -> Table:
    table = _table("NODE", "STATUS", "BUSY", "SLOTS", "POOL")
    for node in nodes:
        status = status_text(node)
        slots = " ".join(f"{slot.name}{'*' if slot.job_id else ''}" for slot in node.slots)
        table.add_row(
            Text(safe(node.name)),
            Text(safe(status), style=_COLOURS.get(status, "")),
            Text(f"{node.busy}/{len(node.slots)}"),
            Text(safe(slots)),
            Text(safe(node.pool) or "-"),
        )
    return table


def _queues(queues: tuple[QueueView, ...]) -> Table:
    table = _table("WAITING", "OLDEST", "NODES", "NEEDS")
    for one in queues:
        style = "" if one.servers else "red"
        table.add_row(
            Text(str(one.waiting)),
            Text(duration(one.oldest_seconds)),
            Text(str(one.servers), style=style),
            Text(safe(one.needs), style=style),
        )
    return table
