"""How fast a job's lines leave it, and how soon a follower has them.

A job prints progress as fast as it can: the lines it gets rid of in a second, and whether what was
printed is what was published and what was counted as coalesced. Its baseline is the same program
into a bare pipe whose reader only splits lines. Then a job prints 200 lines/s: the time from print
to subscriber, beside a bare pipe whose reader publishes each line to Redis.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import redis
from celery import Celery

from benchmarks import report, support
from benchmarks.report import Measure, Report
from tasks.following import follow
from tasks.publishing import TRAIN
from tasks.settings import Settings
from worker.keeper import procfs

LINES = 1_000_000
LEAST_PER_S = 50_000
GENTLE = 1_000
GENTLE_PER_S = 200
MOST_MS = 2.0
MOST_GROWTH_MB = 24.0

# One write for each line, as a program that flushes does; the time it took goes into its output.
FLOOD = f"""
import json, os, sys, time
line = '{{"type":"progress","epoch":%d,"total_epochs":{LINES},"loss":0.25,"accuracy":0.5}}\\n'
began = time.monotonic()
for number in range(1, {LINES} + 1):
    os.write(1, (line % number).encode())
took = time.monotonic() - began
where = os.environ.get("CYXWIZ_OUTPUT")
text = json.dumps(took)
if where:
    with open(where + "/took", "w") as file:
        file.write(text)
else:
    sys.stderr.write(text)
"""
GENTLY = f"""
import json, time
due = time.monotonic()
for number in range(1, {GENTLE} + 1):
    due += 1 / {GENTLE_PER_S}
    time.sleep(max(0, due - time.monotonic()))
    print(json.dumps({{"type": "progress", "epoch": number, "total_epochs": {GENTLE},
                      "said": time.time()}}), flush=True)
"""


def flood_ours(app: Celery, settings: Settings, pids: Sequence[int]) -> dict[str, float]:
    """Print all lines in a job; lines/s, what was counted, and how memory grew meanwhile."""
    job = app.send_task(TRAIN, [{"command": [sys.executable, "-S", "-c", FLOOD], "epochs": 1}])
    sizes: list[float] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.1):
            sizes.append(sum(_rss_mb(pid) for pid in pids))

    watcher = threading.Thread(target=watch)
    watcher.start()
    seen = lost = 0
    for envelope in follow(job.id, settings=settings):
        event: Any = envelope.event
        if envelope.type == "progress":
            seen += 1 + event.coalesced
        elif envelope.type == "truncated":
            lost += event.to_seq - event.from_seq + 1
    over.set()
    watcher.join()
    result = job.get(timeout=60)
    took = float(Path(result["artifacts_dir"], "took").read_text())
    early = sizes[len(sizes) // 5]
    return {
        "rate": LINES / took,
        "accounted": seen / LINES,
        "lost": lost,
        "growth": max(sizes) - early,
    }


def flood_bare() -> float:
    """Lines/s of the same program into a reader that only splits lines."""
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", FLOOD], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    for _ in process.stdout:
        pass
    took = float(process.stderr.read())
    process.wait()
    return LINES / took


def gentle_ours(app: Celery, settings: Settings) -> tuple[list[float], int]:
    """Milliseconds from print to follower at an easy pace, and how many were coalesced."""
    command = [sys.executable, "-S", "-c", GENTLY]
    job = app.send_task(TRAIN, [{"command": command, "epochs": GENTLE}])
    found, coalesced = [], 0
    for envelope in follow(job.id, settings=settings):
        event: Any = envelope.event
        if envelope.type == "progress":
            found.append((time.time() - event.metrics["said"]) * 1000)
            coalesced += event.coalesced
    return found, coalesced


def gentle_bare(client: redis.Redis) -> list[float]:
    """The same through a bare pipe, with one PUBLISH for each line."""
    found: list[float] = []
    with client.pubsub(ignore_subscribe_messages=True) as pubsub:  # type: ignore[no-untyped-call]  # redis-py
        pubsub.subscribe("bare")
        pubsub.get_message(timeout=1.0)

        def hear() -> None:
            while len(found) < GENTLE:
                message = pubsub.get_message(timeout=5.0)
                if message is not None:
                    found.append((time.time() - json.loads(message["data"])["said"]) * 1000)

        listener = threading.Thread(target=hear)
        listener.start()
        process = subprocess.Popen([sys.executable, "-S", "-c", GENTLY], stdout=subprocess.PIPE)
        assert process.stdout is not None
        for line in process.stdout:
            client.publish("bare", line)
        process.wait()
        listener.join()
    return found


def _rss_mb(pid: int) -> float:
    entry = procfs.process(pid)
    return entry.rss_bytes / 1e6 if entry is not None else 0.0


def measure() -> Report:
    """Run it."""
    with support.redis_hub() as url, support.product_node(url, slots=1) as (node, app):
        settings = Settings(redis_url=url)
        app.send_task(TRAIN, [{"command": ["true"]}]).get(timeout=60)  # all is warm
        flood = flood_ours(app, settings, support.tree(node.pid))
        bare_rate = flood_bare()
        gentle, coalesced = gentle_ours(app, settings)
        client = settings.connect()
        bare_ms = gentle_bare(client)
        client.close()
    p50 = statistics.median(gentle)
    return Report(
        name="events",
        figures={
            "flood: ours, lines/s": flood["rate"],
            "flood: bare pipe, lines/s": bare_rate,
            "flood: ours over bare": flood["rate"] / bare_rate,
            "flood: node's memory growth, MB": flood["growth"],
            "flood: events that a follower missed": flood["lost"],
            "200/s: ours, p50 ms": p50,
            "200/s: ours, p99 ms": support.percentile(gentle, 0.99),
            "200/s: bare, p50 ms": statistics.median(bare_ms),
            "200/s: coalesced": coalesced,
        },
        measures=(
            Measure(
                name="lines/s over 50,000",
                ratio=flood["rate"] / LEAST_PER_S,
                bound=1.0,
                at_most=False,
            ),
            Measure(
                name="published + coalesced over printed (at most)",
                ratio=flood["accounted"],
                bound=1.0,
                at_most=True,
            ),
            Measure(
                name="published + coalesced over printed (at least)",
                ratio=flood["accounted"],
                bound=1.0,
                at_most=False,
            ),
            Measure(
                name=f"memory growth over {MOST_GROWTH_MB:g} MB",
                ratio=flood["growth"] / MOST_GROWTH_MB,
                bound=1.0,
                at_most=True,
            ),
            Measure(name="p50 over 2 ms", ratio=p50 / MOST_MS, bound=1.0, at_most=True),
            Measure(name="coalesced at 200/s", ratio=coalesced, bound=0.0, at_most=True),
        ),
    )


if __name__ == "__main__":
    report.main(measure)
