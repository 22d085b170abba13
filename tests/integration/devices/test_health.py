"""The cases of devices that are lost, ill or parted, by their numbers (12 to 14)."""

from __future__ import annotations

from pathlib import Path

import pynvml
import pytest

from tests.integration.devices.node import Node
from tests.support.gpus.stand_in import Host, uuid
from worker.config import NodeConfig
from worker.devices.claims import DeviceBusy, NoSuchDevices
from worker.devices.health import HealthWatch
from worker.devices.nvml import NvmlEvents, NvmlInventory
from worker.devices.pool import DevicePool
from worker.node.device_care import DeviceCare
from worker.node.paths import NodePaths

pytestmark = pytest.mark.integration


def watch(pool: DevicePool) -> HealthWatch:
    made = HealthWatch(NvmlInventory(), NvmlEvents(), pool.health)
    assert made.look() == {}
    return made


def test_case_12_a_lost_gpu_drains_alone_and_the_others_keep_their_uuids(
    host: Host, node: Node
) -> None:
    health = watch(node.pool())
    with node.take(only=frozenset({uuid(3)})), node.take(only=frozenset({uuid(5)})) as other:
        host.gpu(3, lost=1)
        drained = health.look()
        assert list(drained) == [uuid(3)]
        assert "lost" in drained[uuid(3)]
        assert other.grant.devices == (uuid(5),)
    host.gpu(3, hidden=1)  # after a restart of the driver: those behind it move up
    shown = {one.device.uuid: one for one in node.pool().state().devices}
    assert shown[uuid(5)].device.index == 4
    with node.take(only=frozenset({uuid(5)})) as again:
        assert again.grant.env["CUDA_VISIBLE_DEVICES"] == uuid(5)
    with pytest.raises(DeviceBusy):
        node.take(only=frozenset({uuid(3)}))
    with node.take(7) as rest:
        assert uuid(3) not in rest.grant.devices


def test_case_13_xids_of_programs_are_ignored_and_those_of_devices_drain(
    host: Host, node: Node
) -> None:
    health = watch(node.pool())
    host.gpu(0, xid="1 31")
    host.gpu(1, xid="1 79")
    host.gpu(2, dbe=1)
    assert health.look() == {uuid(1): "Xid 79", uuid(2): "double-bit ECC error"}
    with pytest.raises(DeviceBusy, match="drained: Xid 79"):
        node.take(8)
    with node.take(6) as rest:
        assert {uuid(1), uuid(2)}.isdisjoint(rest.grant.devices)
    assert list(health.look()) == [uuid(1), uuid(2)]
    host.gpu(2, dbe_total=3)  # one more, which came without an event
    assert list(health.look()) == [uuid(1), uuid(2)]
    assert list(health.look()) == [uuid(2)], "three clean looks"
    health.look()
    assert health.look() == {}
    node.take(8).release()


def test_case_14_instances_are_devices_and_their_gpu_is_none(host: Host, node: Node) -> None:
    host.gpus = 2
    host.mig(0, ("3g.40gb", 40_000), ("1g.10gb", 9_856))
    devices = node.pool().state().devices
    parts = [one.device for one in devices if one.device.parent == uuid(0)]
    assert [one.profile for one in parts] == ["3g.40gb", "1g.10gb"]
    assert all(one.uuid.startswith("MIG-") for one in parts)
    with pytest.raises(NoSuchDevices, match="split into MIG instances"):
        node.take(only=frozenset({uuid(0)}))
    with node.take(only=frozenset({parts[1].uuid})) as held:
        assert held.grant.env["CUDA_VISIBLE_DEVICES"] == parts[1].uuid
    with pytest.raises(NoSuchDevices, match="one MIG instance"):
        node.take(2)
    host.mig(0, ("7g.80gb", 80_000))  # reconfigured while the node runs
    with pytest.raises(DeviceBusy, match="not there"):
        node.take(only=frozenset({parts[1].uuid}))


def test_case_14_a_slot_of_what_is_there_no_more_stands_aside(host: Host, tmp_path: Path) -> None:
    host.gpus = 2
    host.mig(0, ("3g.40gb", 40_000), ("1g.10gb", 9_856))
    config = NodeConfig.model_validate({"node": {"state_dir": tmp_path}})
    care = DeviceCare(config, NodePaths(state_dir=tmp_path))
    parts = [one.device.uuid for one in care.look().devices if one.device.parent]
    assert len(parts) == 2
    assert care.unwell() == {}
    host.mig(0, ("7g.80gb", 80_000))  # reconfigured while the node runs
    care.look()
    assert care.unwell() == {parts[1]: "lost: it is not there"}, "the other has the same place"


def no_driver() -> int:
    raise pynvml.NVMLError(pynvml.NVML_ERROR_DRIVER_NOT_LOADED)


def test_a_driver_that_goes_makes_every_device_unwell_until_it_is_back(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.gpus = 2
    host.write()
    config = NodeConfig.model_validate({"node": {"state_dir": tmp_path}})
    care = DeviceCare(config, NodePaths(state_dir=tmp_path))
    care.look()
    with monkeypatch.context() as gone:
        gone.setattr(pynvml, "nvmlDeviceGetCount", no_driver)
        assert care.look().devices == ()
        assert sorted(care.unwell()) == [uuid(0), uuid(1)]
    for _ in range(3):
        care.look()
    assert care.unwell() == {}
