"""The proof before a job: it sees what it was granted, or does not begin."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.choices import Device as Kind
from tests.support.gpus.stand_in import Host, uuid
from worker.devices.inventory import Device
from worker.devices.visibility import environment
from worker.runner.faults import Exit

pytestmark = pytest.mark.integration
PROOF = Path(__file__).resolve().parents[3] / "worker" / "runner" / "proof.py"


def prove(env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-S", str(PROOF), "--", sys.executable, "-c", "print('it runs')"]
    return subprocess.run(command, env={"PATH": os.defpath, **env}, capture_output=True, text=True)


def granted(*numbers: int) -> dict[str, str]:
    return environment([Device(uuid=uuid(number)) for number in numbers])


def test_a_job_that_sees_its_devices_runs(host: Host) -> None:
    done = prove({**host.env, **granted(2, 5)})
    assert (done.stdout, done.returncode) == ("it runs\n", 0), done.stderr


def test_a_job_without_a_grant_runs_without_cuda() -> None:
    assert prove(environment([])).stdout == "it runs\n"
    assert prove({}).stdout == "it runs\n"


def test_a_job_that_would_run_on_the_cpu_does_not_begin(host: Host) -> None:
    done = prove({**host.env, **granted(2), "CUDA_VISIBLE_DEVICES": ""})
    assert (done.stdout, done.returncode) == ("", Exit.NO_DEVICE)
    assert "CUDA shows no device" in done.stderr


def test_nor_one_that_would_see_more_or_others(host: Host) -> None:
    more = prove({**host.env, **granted(2), "CUDA_VISIBLE_DEVICES": f"{uuid(2)},{uuid(3)}"})
    other = prove({**host.env, **granted(2), "CUDA_VISIBLE_DEVICES": uuid(3)})
    assert more.returncode == other.returncode == Exit.NO_DEVICE
    assert uuid(2) in other.stderr


def test_nor_one_whose_device_is_lost_or_whose_driver_is_not_there(host: Host) -> None:
    without = prove(granted(2))
    assert without.returncode == Exit.NO_DEVICE
    assert "libcuda.so.1" in without.stderr
    host.gpu(2, lost=1)
    assert prove({**host.env, **granted(2)}).returncode == Exit.NO_DEVICE


def test_of_rocm_each_device_node_must_open(tmp_path: Path) -> None:
    def card(*nodes: str) -> dict[str, str]:
        return environment([Device(uuid="card", kind=Kind.ROCM, nodes=nodes)])

    assert prove(card("/dev/null", "/dev/zero")).stdout == "it runs\n"
    away = prove(card("/dev/null", str(tmp_path / "renderD128")))
    assert (away.stdout, away.returncode) == ("", Exit.NO_DEVICE)
    assert "renderD128" in away.stderr


def test_a_program_that_is_not_there_is_said_so(host: Host) -> None:
    command = [sys.executable, "-S", str(PROOF), "--", "/no/such/program"]
    done = subprocess.run(command, env={**host.env}, capture_output=True, text=True)
    assert done.returncode == 127
    assert "/no/such/program: No such file" in done.stderr
