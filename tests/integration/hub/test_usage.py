"""Who used how much."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from tasks.cluster import Cluster
from tasks.events import Succeeded
from tasks.record import Records
from tasks.usage import day_number, today
from tests.conftest import Hub
from tests.integration.hub.support import finish, run_out, submit

pytestmark = pytest.mark.integration


def test_usage_is_counted_by_renewals_and_ends(
    records: Records, cluster: Cluster, hub: Hub
) -> None:
    def back(job_id: str, seconds: int) -> None:
        """As if what is not counted yet had begun so long ago."""
        hub.client.hincrby(hub.keys.job(job_id), "counted", -seconds * 1000)

    def claimed(job_id: str, gpus: int) -> Any:
        return records.leases.claim(
            job_id,
            owner=f"o-{job_id}",
            node="node-a",
            slot=f"gpu{gpus}",
            ttl_ms=60_000,
            delivery_tag="",
            gpus=gpus,
        ).lease

    one, two = submit(records, user_id="ann"), submit(records, user_id="bob")
    first, second = claimed(one, 4), claimed(two, 0)
    back(one, 100)
    records.leases.renew(first, 60_000)
    back(one, 50)
    finish(records, first, Succeeded())
    back(two, 30)
    run_out(records, two)
    records.upkeep.reap(0)  # a node that vanished: nothing after its last renewal is counted
    day = today(hub.client)
    rows = {used.user_id: used for used in cluster.usage(day - timedelta(days=2), day)}
    assert rows.keys() == {"ann"}
    assert 150 <= rows["ann"].slot_seconds < 160
    assert 600 <= rows["ann"].gpu_seconds < 640
    assert list(cluster.usage(day, day, user_id="bob")) == []
    assert [used.user_id for used in cluster.usage(day, day, user_id="ann")] == ["ann"]
    assert hub.client.ttl(hub.keys.usage(day_number(day))) > 300 * 86_400
    finish(records, claimed(two, 0), Succeeded())
    with pytest.raises(ValueError, match="1 to 400 days"):
        list(cluster.usage(day, day - timedelta(days=1)))
    del second
