"""Whether a node runs a job, and how: each line of the table, and what comes of what it lacks."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from tasks.choices import Sandbox
from tasks.job import JobConfig
from tasks.state import FailureReason
from worker.admission import Admitted, HandBack, Refused, admit
from worker.config import ExecutionMode, NodeConfig
from worker.engines import SandboxLevel, engine_state
from worker.limits import HostSize
from worker.sandbox.engine_report import EngineFacts, EngineReport, Keeping, Promise

pytestmark = pytest.mark.unit

HOST = HostSize(memory_mb=8192, cpu_cores=4)
WHOLE = EngineReport(
    facts=EngineFacts(name="docker", version="20.10"),
    available=True,
    promises=(Promise(name="memory", keeping=Keeping.ENFORCED, seen=""),),
)
GONE = EngineReport(
    facts=EngineFacts(name="docker", version=""), reason="docker at /s: nobody listens there"
)
UNAVAILABLE = FailureReason.SANDBOX_UNAVAILABLE


def job(**fields: Any) -> JobConfig:
    return JobConfig.parse({"command": ["true"], **fields})


def node(mode: str = "auto", *, natively: bool = False) -> NodeConfig:
    execution = {"mode": mode, "allow_untrusted_native": natively}
    return NodeConfig.model_validate({"execution": execution, "node": {"state_dir": "/s"}})


def decide(
    asked: JobConfig, config: NodeConfig, report: EngineReport = WHOLE, **differs: Any
) -> Admitted | HandBack | Refused:
    return admit(asked, config, HOST, engine_state(config, [report]), **differs)


@pytest.mark.parametrize(
    ("mode", "usable", "natively", "sandbox"),
    list(itertools.product(ExecutionMode, (True, False), (True, False), Sandbox)),
)
def test_an_untrusted_job_is_in_a_container_or_where_the_operator_let_it(
    mode: ExecutionMode, usable: bool, natively: bool, sandbox: Sandbox
) -> None:
    engine = WHOLE if usable else GONE
    found = decide(job(sandbox=sandbox), node(mode, natively=natively), engine)
    contained = usable and mode in (ExecutionMode.AUTO, ExecutionMode.DOCKER)
    if sandbox is Sandbox.GVISOR:
        assert isinstance(found, Refused)
    elif contained:
        assert isinstance(found, Admitted)
        assert (found.mode, found.level, found.warning) == ("docker", SandboxLevel.FULL, "")
    elif natively:
        assert isinstance(found, Admitted)
        assert (found.mode, found.level) == ("native", SandboxLevel.NONE)
        assert bool(found.warning) == (mode is not ExecutionMode.NATIVE)
    elif mode is ExecutionMode.NATIVE:
        assert found == Refused(reason=UNAVAILABLE, message=found.message)
    else:
        assert found == HandBack(reason=UNAVAILABLE, message=found.message)
        wanted = "nobody listens there" if mode is not ExecutionMode.PODMAN else "no container"
        assert wanted in found.message


def test_a_job_that_no_node_could_confine_is_rejected_the_second_time() -> None:
    found = decide(job(), node(), GONE, last_reason=UNAVAILABLE)
    assert isinstance(found, Refused)
    assert found.reason is UNAVAILABLE
    assert "allow_untrusted_native" in found.message


def test_an_engine_that_was_there_is_waited_for() -> None:
    for last in ("", UNAVAILABLE):
        found = decide(job(), node(), GONE, last_reason=last, engine_expected=True)
        assert isinstance(found, HandBack)
        assert found.reason is FailureReason.ENGINE_ERROR


def test_an_image_is_for_containers() -> None:
    named = job(image="cyxwiz/executor:cpu-1")
    natively = decide(named, node("native", natively=True))
    assert isinstance(natively, HandBack)
    assert natively.reason is FailureReason.IMAGE_UNAVAILABLE
    assert isinstance(decide(named, node()), Admitted)


def test_network_and_secrets_are_for_signed_jobs() -> None:
    for asked in ({"network": "bridge"}, {"secrets": ["TOKEN"]}):
        found = decide(job(**asked), node())
        assert isinstance(found, Refused)
        assert found.reason is FailureReason.UNTRUSTED


def test_what_a_cpu_slot_cannot_give_is_handed_back() -> None:
    device = decide(job(required_device="cuda", gpus=1), node())
    assert isinstance(device, HandBack)
    assert device.reason is FailureReason.NO_DEVICE
    memory = decide(job(memory_mb=9000), node())
    assert isinstance(memory, HandBack)
    assert memory.reason is FailureReason.OUT_OF_MEMORY
