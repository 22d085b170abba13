"""The page of a node's metrics, served from what is counted in Redis."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis

from tasks.cluster import Cluster
from tasks.events import Succeeded
from tasks.record import Records
from tasks.settings import Settings
from tasks.state import FailureReason, JobState
from tests.conftest import Hub
from tests.integration.hub.support import claim, finish, run_out, submit
from tests.support.fleet import cpu_offer, gpu_offer, node
from tests.support.metrics import scraped, values
from tests.support.redis_server import RedisServer, free_port
from worker.node.cluster_counts import FRESH_MS
from worker.node.metrics import Metrics, cluster_metrics
from worker.node.registry import GpuEntry
from worker.sections import MetricsSection

pytestmark = pytest.mark.integration

DASHBOARD = Path(__file__).parents[3] / "compose" / "grafana-dashboard.json"
HEALTHY = Path(__file__).parents[3] / "compose" / "healthy.py"
Serve = Callable[..., Metrics]


@pytest.fixture
def serve(hub: Hub) -> Iterator[Serve]:
    served: list[Metrics] = []

    def serve(port: int, **section: object) -> Metrics:
        served.append(Metrics(MetricsSection(port=port, **section), hub.settings, "node-a"))
        served[-1].start()
        return served[-1]

    yield serve
    for one in served:
        one.stop()


def test_promtool_finds_nothing_wrong_and_the_dashboard_shows_what_there_is(
    hub: Hub, serve: Serve, tmp_path: Path
) -> None:
    serve(port := free_port())
    gpu = GpuEntry(
        uuid="GPU-1", kind="cuda", name="H100", memory_mb=80_000, used_mb=4_000, utilisation=35,
        jobs=1, wrong="it is hot",
    )  # fmt: skip
    node(hub.client, hub.keys, "node-a", cpu_offer(), gpu_offer(), state="ready", gpus=(gpu,))
    records = hub.records
    finish(records, claim(records, submit(records)), Succeeded())
    failed = {"state": JobState.FAILED, "reason": FailureReason.USER_ERROR}
    finish(records, claim(records, submit(records)), **failed)
    lost = submit(records)
    claim(records, lost)
    run_out(records, lost)
    records.upkeep.reap(0)
    page = scraped(port)
    names = set(re.findall(r"^(cyxwiz_\w+)", page, re.MULTILINE))
    queries = [
        target["expr"]
        for panel in json.loads(DASHBOARD.read_text())["panels"]
        for target in panel["targets"]
    ]
    asked = {name for query in queries for name in re.findall(r"cyxwiz_\w+", query)}
    assert asked - names == set()
    found = values(port)
    assert found['cyxwiz_slots{kind="gpu",state="ready"}'] == 1
    device = '{device="GPU-1",model="H100"}'
    assert found[f"cyxwiz_device_utilisation_ratio{device}"] == pytest.approx(0.35)
    assert found[f"cyxwiz_device_memory_used_bytes{device}"] == 4_000 * 2**20
    assert found[f"cyxwiz_device_well{device}"] == 0
    assert f"cyxwiz_device_temperature_celsius{device}" not in found
    assert found['cyxwiz_attempts_ended_total{outcome="failed",reason="user_error"}'] == 1
    assert (found["cyxwiz_leases_lost_total"], found["cyxwiz_attempts_begun_total"]) == (1, 3)

    tool = shutil.which("promtool")
    if tool is None:
        missing = "promtool is not on PATH (Debian: apt-get install prometheus)"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(missing)
    done = subprocess.run(
        [tool, "check", "metrics"], input=page, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    rules = [{"record": f"r{number}", "expr": query} for number, query in enumerate(queries)]
    path = tmp_path / "rules.yaml"
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = subprocess.run(
        [tool, "check", "rules", str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_port_that_is_taken_costs_the_metrics_alone(
    hub: Hub, serve: Serve, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    first = serve(port := free_port())
    serve(port)
    assert "metrics.unserved" in caplog.text + "".join(capfd.readouterr())
    assert values(port)["cyxwiz_redis_up"] == 1
    first.stop()
    first.stop()
    with pytest.raises(OSError, match="refused"):
        scraped(port)


def test_metrics_can_be_off(hub: Hub, serve: Serve) -> None:
    serve(port := free_port(), enabled=False)
    with pytest.raises(OSError, match="refused"):
        scraped(port)


def test_nothing_is_known_of_a_node_that_has_just_come(hub: Hub, serve: Serve) -> None:
    serve(port := free_port())
    found = values(port)
    assert found["cyxwiz_attempts_begun_total"] == 0
    assert not any(name.startswith("cyxwiz_node_info") for name in found)


def test_the_clusters_counts_are_read_by_one_node_for_all(
    hub: Hub, records: Records, cluster: Cluster
) -> None:
    for device in ("cpu", "cuda", "any"):
        submit(records, required_device=device)
    keys, client = hub.keys, hub.client

    def commands() -> int:
        said: Any = client.info("stats")
        return int(said["total_commands_processed"])

    def shown() -> tuple[int, int]:
        """How many jobs wait by a scrape, and how many commands that took."""
        before = commands()
        jobs, *_ = cluster_metrics(cluster)
        after = commands()
        (queued,) = (one.value for one in jobs.samples if one.labels["state"] == "queued")
        return int(queued), after - before

    assert shown()[0] == 3
    submit(records)
    assert shown() == (3, 3), "what another node has read (and the command that counts)"
    client.pexpire(keys.cluster_counts, 60_000 - FRESH_MS)
    client.set(keys.cluster_counts_reader, 1)
    assert shown()[0] == 3, "while another one reads them anew"
    client.delete(keys.cluster_counts_reader)
    assert shown()[0] == 4
    assert client.pttl(keys.cluster_counts) > 60_000 - FRESH_MS
    assert 0 < client.pttl(keys.cluster_counts_reader) <= 2_000
    client.set(keys.cluster_counts, '{"of": "a later version"}', px=60_000)
    assert shown()[0] == 4


def test_a_redis_that_refuses_to_write_hides_no_count(
    hub: Hub, records: Records, cluster: Cluster
) -> None:
    submit(records)

    def queued() -> int:
        jobs, *_ = cluster_metrics(cluster)
        return int(next(one.value for one in jobs.samples if one.labels["state"] == "queued"))

    keys, client = hub.keys, hub.client
    client.set(keys.cluster_counts, '{"jobs": {"queued": Infinity}, "queues": []}', px=60_000)
    assert queued() == 1, "what nobody can have counted"
    client.config_set("min-replicas-to-write", 1)  # it has none
    try:
        with pytest.raises(redis.ResponseError, match="NOREPLICAS"):
            client.set("x", 1)
        assert queued() == 1, "while what was read is fresh"
        client.config_set("min-replicas-to-write", 0)
        client.pexpire(keys.cluster_counts, 60_000 - FRESH_MS)
        submit(records)
        client.config_set("min-replicas-to-write", 1)
        assert queued() == 2, "once it is not"
    finally:
        client.config_set("min-replicas-to-write", 0)


def health(port: int) -> tuple[int, str]:
    """As a container's health check asks; its exit code, and what it says."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(HEALTHY)],
        env={"CYXWIZ_METRICS__PORT": str(port)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout.strip()


def test_a_node_is_well_when_it_takes_jobs_or_was_told_not_to(hub: Hub, serve: Serve) -> None:
    serve(port := free_port())
    assert health(port) == (1, "Redis has no heartbeat of node node-a")
    made = node(hub.client, hub.keys, "node-a", cpu_offer(), cpu_offer())
    assert health(port) == (0, "")

    def beat(state: str) -> None:
        slots = tuple(replace(one, state=state) for one in made.record.slots)
        made.registry.beat(replace(made.record, slots=slots))

    beat("starting")
    assert health(port) == (1, "none of its 2 slots takes jobs")
    Cluster(hub.client, hub.keys).cordon("node-a")
    assert health(port) == (0, "")
    Cluster(hub.client, hub.keys).uncordon("node-a")
    beat("draining")
    assert health(port) == (0, "")
    hub.client.hset(hub.keys.node("node-a"), "record", '{"slots": 7}')
    assert health(port) == (1, "none of its 0 slots takes jobs")


def test_a_node_whose_redis_is_away_is_not_well() -> None:
    with RedisServer() as server:
        port = free_port()
        away = Metrics(MetricsSection(port=port), Settings(redis_url=server.url), "node-a")
        away.start()
    try:
        code, said = health(port)
    finally:
        away.stop()
    assert (code, said.partition(":")[0]) == (1, "Redis does not answer")
