"""``cyxwiz devices``, and what ``cyxwiz doctor`` says of the pool."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.cli import Cli
from tests.support.gpus.stand_in import Host, uuid
from worker.devices.allocation import Request
from worker.devices.inventory import Device, StaticInventory
from worker.devices.pool import DevicePool
from worker.node.paths import NodePaths

pytestmark = pytest.mark.e2e


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path / "gpus", gpus=2).write()


def gpus(found: Any) -> dict[str, str]:
    return next(one for one in found["checks"] if one["name"] == "gpus (nvidia)")  # type: ignore[no-any-return]  # JSON


def test_the_pool_is_shown(cli: Cli, host: Host, tmp_path: Path) -> None:
    state = tmp_path / "state"
    paths = NodePaths(state_dir=state)
    paths.create()
    config = tmp_path / "server-node.yaml"
    config.write_text(f"node: {{state_dir: {state}}}\n")
    pool = DevicePool(
        leases=paths.leases,
        attempts=paths.attempts,
        inventory=StaticInventory([Device(uuid=uuid(1), memory_mb=81_920)]),
    )
    host.gpu(0, util=90, temp=61, lost=0)
    with pool.grant("gpu1", Request(), attempt="job~1"):
        shown = cli.fresh("devices", "--config", str(config), env=host.env)
        assert shown.code == 0, shown
        _, first, second = shown.out.splitlines()
        assert first.split()[0] == uuid(0)
        assert "90 %" in first
        assert "61 C" in first
        assert first.endswith("free")
        assert second.endswith("held by job~1")
        found = cli.fresh("devices", "--json", "--config", str(config), env=host.env).json
        assert (found["driver"], found["cuda"], found["reason"]) == ("550.54.15", "12.4", "")
        assert [one["state"] for one in found["devices"]] == ["free", "held by job~1"]
        doctor = gpus(cli.fresh("doctor", "--json", "--config", str(config), env=host.env).json)
        assert doctor["verdict"] == "ok"
        assert "2 x NVIDIA A100-SXM4-80GB (81920 MiB), driver 550.54.15" in doctor["found"]
        assert doctor["found"].endswith("1 free, 1 held")
    pool.reap()
    totals = cli.fresh("devices", "--json", "--config", str(config), env=host.env).json["devices"][
        1
    ]
    assert totals["totals"]["jobs"] == 1
    host.gpu(0, lost=1)
    broken = gpus(cli.fresh("doctor", "--json", "--config", str(config), env=host.env).json)
    assert broken["verdict"] == "missing"
    assert "do not answer (index 0)" in broken["why"]


def test_a_host_without_nvidia_has_none_and_a_reason(cli: Cli) -> None:
    shown = cli("devices")
    assert (shown.code, shown.out) == (0, "no devices\n")
    assert "libnvidia-ml.so.1 cannot be loaded" in shown.err
    found = gpus(cli("doctor", "--json").json)
    assert found["found"] == "none"
    assert "libnvidia-ml.so.1 cannot be loaded" in found["why"]
