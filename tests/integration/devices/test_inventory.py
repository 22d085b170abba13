"""The inventory on the stand-in for NVIDIA's library; a third-party client agrees with it."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from pathlib import Path

import pynvml
import pytest

from tests.support.gpus import stand_in
from tests.support.gpus.stand_in import Host, uuid
from worker.devices.inventory import (
    Device,
    GpuEvent,
    GpuProcess,
    Inventories,
    StaticInventory,
)
from worker.devices.nvml import NvmlEvents, NvmlInventory

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(
    "name",
    [
        "nvmlPciInfo_t",
        "c_nvmlMemory_t",
        "c_nvmlMemory_v2_t",
        "c_nvmlUtilization_t",
        "c_nvmlProcessInfo_v3_t",
        "c_nvmlEventData_t",
    ],
)
def test_the_stand_in_has_pynvmls_layouts(name: str) -> None:
    library = ctypes.CDLL(str(stand_in.library() / "libnvidia-ml.so.1"))
    assert library.stand_in_size(name.encode()) == ctypes.sizeof(getattr(pynvml, name))


def test_everything_of_a_gpu_is_told(host: Host) -> None:
    host.gpu(0, util=90, temp=61, power=250_000, cc=90, name="NVIDIA H100", dbe_total=2)
    host.process(0, 4242, 1024)
    host.process(0, 4243, "?")
    host.process(0, 17, 100, kind="graphics")
    snapshot = NvmlInventory().snapshot()
    assert (snapshot.driver, snapshot.cuda, snapshot.reason) == ("550.54.15", "12.4", "")
    assert snapshot.devices[0] == Device(
        uuid=uuid(0),
        index=0,
        name="NVIDIA H100",
        memory_mb=81920,
        reserved_mb=600,
        used_mb=1124,
        utilisation=90,
        temperature_c=61,
        power_w=250.0,
        compute_capability="9.0",
        pci="00000000:07:00.0",
        processes=(
            GpuProcess(pid=4242, memory_mb=1024),
            GpuProcess(pid=4243, memory_mb=None),
            GpuProcess(pid=17, memory_mb=100, graphics=True),
        ),
        double_bit_errors=2,
    )


def test_what_a_gpu_does_not_tell_is_none(host: Host) -> None:
    host.gpu(1, without="util,temp,power,ecc,processes")
    gpu = NvmlInventory().snapshot().devices[1]
    assert (gpu.utilisation, gpu.temperature_c, gpu.power_w) == (None, None, None)
    assert gpu.double_bit_errors is None
    assert gpu.fault == ""
    assert gpu.processes == ()
    assert not gpu.tells_processes


def test_close_gpus_are_nearer(host: Host) -> None:
    snapshot = NvmlInventory().snapshot()
    same, near, far = (snapshot.distance(uuid(0), uuid(other)) for other in (1, 2, 4))
    assert same < near < far


def test_a_driver_that_comes_back_is_seen(host: Host) -> None:
    inventory = NvmlInventory()
    host.set(init_error=9)
    assert inventory.snapshot().devices == ()
    host.set(init_error=0)
    assert len(inventory.snapshot().devices) == 8
    inventory.close()
    inventory.close()
    assert len(inventory.snapshot().devices) == 8


def test_events_are_heard_once(host: Host) -> None:
    events = NvmlEvents()
    events.watch()
    assert events.hear() == []
    host.gpu(2, xid="1 79")
    host.gpu(5, dbe=1)
    assert events.hear(1000) == [
        GpuEvent(uuid=uuid(2), xid=79),
        GpuEvent(uuid=uuid(5), xid=None),
    ]
    assert events.hear() == []
    host.gpu(2, xid="2 31")
    assert events.hear() == [GpuEvent(uuid=uuid(2), xid=31)]
    events.close()
    events.close()


def test_several_inventories_are_one(host: Host) -> None:
    card = Device(uuid="card-0", name="of another vendor", memory_mb=16_000)
    host.set(init_error=9)
    both = Inventories(NvmlInventory(), StaticInventory([card])).snapshot()
    assert both.devices == (card,)
    assert "NVML" in both.reason


NVITOP = """
import json
from nvitop import Device
print(json.dumps([
    [d.uuid(), d.name(), d.memory_total() >> 20, d.memory_used() >> 20, d.gpu_utilization(),
     d.temperature(), d.power_usage() / 1000, list(d.processes())]
    for d in Device.all()
]))
"""


def test_nvitop_agrees(host: Host) -> None:
    host.gpu(1, util=73, temp=55, power=123_000)
    host.gpu(4, name="NVIDIA L40S", memory=46068, reserved=0)
    host.process(1, 4242, 2048)
    done = subprocess.run(
        [sys.executable, "-c", NVITOP], env=host.env, capture_output=True, text=True, check=True
    )
    ours = [
        [
            one.uuid,
            one.name,
            one.memory_mb,
            one.used_mb,
            one.utilisation,
            one.temperature_c,
            one.power_w,
            [process.pid for process in one.processes],
        ]
        for one in NvmlInventory().snapshot().devices
    ]
    assert json.loads(done.stdout) == ours


def test_a_process_finds_it_by_its_environment(host: Host, tmp_path: Path) -> None:
    program = (
        "from worker.devices.nvml import NvmlInventory as I; print(len(I().snapshot().devices))"
    )
    root = Path(__file__).parents[3]
    env = {**host.env, "PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True)
    assert done.stdout == "8\n", done.stderr
