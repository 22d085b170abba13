"""What the commands about the cluster share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from worker.cli.hub import reached, reaching

if TYPE_CHECKING:
    from tasks.cluster import Cluster

_F = TypeVar("_F", bound=Callable[..., Any])


@contextmanager
def looking(redis_url: str | None, config_path: Path | None) -> Iterator[Cluster]:
    """The cluster on the hub that the options name. Raises ConfigError, RedisUnavailable."""
    from tasks.cluster import Cluster

    settings = reached(redis_url, config_path)
    with reaching(settings) as client:
        yield Cluster(client, settings.keys)


def page_options(command: _F) -> _F:
    """``--limit`` and ``--after``, as for ``cyxwiz jobs``."""
    command = click.option(
        "--after",
        default="",
        metavar="PLACE",
        help="The next page: the place that the last one named.",
    )(command)
    return click.option(
        "--limit",
        type=click.IntRange(1, 1000),
        default=50,
        show_default=True,
        metavar="N",
        help="At most so many on a page.",
    )(command)
