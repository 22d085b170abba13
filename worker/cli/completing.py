"""What a shell offers for a job's or a node's name; nothing where Redis does not answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from click import Context, Parameter
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    from tasks.cluster import Cluster

_LATEST: Final = 300
"""Jobs that are looked through, the latest first."""
_PATIENCE_S: Final = 1.0


def jobs(ctx: Context, _: Parameter, incomplete: str) -> list[CompletionItem]:
    """Ids of jobs, those to which something happened last."""

    def begun(cluster: Cluster) -> list[CompletionItem]:
        latest = cluster.jobs(limit=_LATEST).items
        return [
            CompletionItem(one.job_id, help=str(one.state))
            for one in latest
            if one.job_id.startswith(incomplete)
        ]

    return _asked(ctx, begun)


def nodes(ctx: Context, _: Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of nodes."""
    return _asked(ctx, lambda cluster: [CompletionItem(n) for n in cluster.node_names(incomplete)])


def _asked(
    ctx: Context, question: Callable[[Cluster], list[CompletionItem]]
) -> list[CompletionItem]:
    """Of the cluster that the line's own options name. Whoever presses Tab wants no error."""
    import redis

    from tasks.cluster import Cluster
    from tasks.errors import ConfigError
    from worker.cli.hub import find_hub

    try:
        found = find_hub(ctx.params.get("redis_url"), ctx.params.get("config_path")).settings
        with found.connect(timeout=_PATIENCE_S) as client:
            return question(Cluster(client, found.keys))
    except (ConfigError, ModuleNotFoundError, redis.RedisError):
        return []
