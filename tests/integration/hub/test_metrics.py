"""The page of a node's metrics, served from what is counted in Redis."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tasks.events import Succeeded
from tasks.state import FailureReason, JobState
from tests.conftest import Hub
from tests.integration.hub.support import claim, finish, run_out, submit
from tests.support.fleet import cpu_offer, gpu_offer, node
from tests.support.metrics import scraped, values
from tests.support.redis_server import free_port
from worker.node.metrics import Metrics
from worker.node.registry import GpuEntry
from worker.sections import MetricsSection

pytestmark = pytest.mark.integration

DASHBOARD = Path(__file__).parents[3] / "compose" / "grafana-dashboard.json"
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
    records.reap(0)
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
