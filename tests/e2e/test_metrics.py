"""A node's metrics as Prometheus reads them, over the node's life."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tasks.state import JobState
from tests.support.cluster import Cluster
from tests.support.metrics import values
from tests.support.redis_server import RedisServer, free_port
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e


def test_what_happens_on_the_node_is_counted_and_outlives_its_processes(
    start_cluster: Callable[..., Cluster], server: RedisServer
) -> None:
    port = free_port()
    cluster = start_cluster(slots=2, extra={"metrics": {"port": port}})
    before = values(port)
    assert before["cyxwiz_redis_up"] == 1
    assert before['cyxwiz_slots{kind="cpu",state="ready"}'] == 2
    assert before["cyxwiz_attempts_begun_total"] == 0
    for _ in range(3):
        cluster.shell("echo hello")
    failed = cluster.shell("exit 3", max_attempts=1)
    running = cluster.shell("exec sleep 60")
    cluster.wait_state(running, JobState.RUNNING)
    waiting = cluster.shell("true", required_device="cuda")
    cluster.wait_state(failed)
    wait_until(lambda: values(port)["cyxwiz_attempts_begun_total"] == 5, what="five claims")
    wait_until(
        lambda: values(port).get('cyxwiz_attempts_ended_total{outcome="succeeded",reason=""}') == 3,
        what="three ends",
    )
    found = values(port)
    assert found['cyxwiz_attempts_ended_total{outcome="failed",reason="user_error"}'] == 1
    assert found["cyxwiz_queue_wait_seconds_count"] == 5
    assert found["cyxwiz_dispatch_seconds_count"] == 5
    assert found['cyxwiz_run_seconds_bucket{le="+Inf"}'] == 4
    assert found["cyxwiz_events_published_total"] > 10
    assert found['cyxwiz_slots_busy{kind="cpu"}'] == 1
    wait_until(
        lambda: values(port).get('cyxwiz_cluster_jobs{state="queued"}') == 1,
        what="the cluster's counts, which are some seconds old",
    )
    queue = cluster.record(waiting).queue
    assert values(port)[f'cyxwiz_cluster_queue_nodes{{queue="{queue}"}}'] == 0
    assert any(name.startswith("cyxwiz_node_info{") and 'node="node-a"' in name for name in found)

    cluster.node.kill_everything()
    cluster.node.start()
    assert values(port)["cyxwiz_attempts_begun_total"] >= 5
    assert values(port)["cyxwiz_queue_wait_seconds_count"] >= 5
    wait_until(lambda: values(port)["cyxwiz_lease_renewals_total"] > 0, what="renewals")

    server.freeze()
    try:
        away = values(port)
    finally:
        server.thaw()
    assert away["cyxwiz_redis_up"] == 0
    assert away["cyxwiz_attempts_begun_total"] >= 5, "what was last known"
    for job in (running, waiting):
        cluster.app.control.revoke(job.id)
        cluster.wait_state(job)
