"""Memory of an idle node with 8 slots, beside 8 bare Celery workers (prefork, one child each)."""

from __future__ import annotations

import time

from benchmarks import report, support
from benchmarks.report import Measure, Report

SLOTS = 8
SETTLE_S = 3.0
"""What is imported or started lazily after a worker says ready has come by then, on both sides."""


def measure() -> Report:
    """Proportional set size, so that pages which processes share count once."""
    with support.redis_hub() as url:
        with support.product_node(url, slots=SLOTS) as (node, _):
            time.sleep(SETTLE_S)
            pids = support.tree(node.pid)
            ours, our_processes = support.pss_mb(pids), len(pids)
        with support.bare_workers(url, workers=SLOTS, children=1) as (workers, _):
            time.sleep(SETTLE_S)
            pids = [pid for one in workers for pid in support.tree(one.pid)]
            bare, bare_processes = support.pss_mb(pids), len(pids)
    return Report(
        name="memory",
        figures={
            "ours, PSS MB": ours,
            "ours, processes": our_processes,
            "bare Celery, PSS MB": bare,
            "bare Celery, processes": bare_processes,
        },
        measures=(Measure(name="PSS", ratio=ours / bare, bound=1.25, at_most=True),),
    )


if __name__ == "__main__":
    report.main(measure)
