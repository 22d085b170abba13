"""How a job runs on a host: every combination of host, rules and job."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.config import ExecutionMode
from worker.sandbox.engine_report import (
    EngineFacts,
    EngineReport,
    ExecutionCapabilities,
    Keeping,
    Promise,
)
from worker.sandbox.levels import SandboxLevel
from worker.sandbox.mode import NodeRules, NoMode, Selected, select_execution_mode

pytestmark = pytest.mark.unit

BOOLS = (False, True)
AUTO, NATIVE = ExecutionMode.AUTO, ExecutionMode.NATIVE
DOCKER, PODMAN = ExecutionMode.DOCKER, ExecutionMode.PODMAN


def engine(name: str, state: str) -> list[EngineReport]:
    """``state``: absent, broken (it answers, and a promise does not hold) or whole."""
    facts = EngineFacts(name=name, version="1", rootless=name == "podman")
    if state == "absent":
        return []
    keeping = Keeping.ENFORCED if state == "whole" else Keeping.REFUSED
    return [
        EngineReport(
            facts=facts,
            available=True,
            reason="" if state == "whole" else f"{name} keeps no limit on memory",
            promises=(Promise(name="memory", keeping=keeping, seen=""),),
        )
    ]


STATES = ("absent", "broken", "whole")
HOSTS = [
    ExecutionCapabilities(engines=(*engine("docker", one), *engine("podman", two)), has_gvisor=g)
    for one, two, g in product(STATES, STATES, BOOLS)
]
RULES = [
    NodeRules(mode=mode, allow_untrusted_native=allow)
    for mode, allow in product(ExecutionMode, BOOLS)
]
JOBS = [
    {
        "requires_sandbox": requires,
        "prefers_container": prefers,
        "requires_gvisor": gvisor,
        "trusted": trusted,
    }
    for requires, prefers, gvisor, trusted in product(BOOLS, BOOLS, BOOLS, BOOLS)
]


def usable(host: ExecutionCapabilities, rules: NodeRules) -> list[str]:
    """The engines that may be used and can be, the better one first."""
    whole = [one.facts.name for one in host.engines if not one.reason]
    allowed = {
        AUTO: ["docker", "podman"],
        NATIVE: [],
        DOCKER: ["docker"],
        PODMAN: ["podman"],
    }[rules.mode]
    return [name for name in allowed if name in whole]


def expected(host: ExecutionCapabilities, rules: NodeRules, job: dict[str, bool]) -> str:
    """Section by section of the table, in other words than the code has it."""
    engines = usable(host, rules)
    if job["requires_gvisor"]:
        return engines[0] if engines and host.has_gvisor else "nowhere"
    careless = not job["requires_sandbox"] and not job["prefers_container"]
    if engines:
        return "native" if job["trusted"] and careless else engines[0]
    if job["trusted"] and not job["requires_sandbox"]:
        return "native"
    return "native" if rules.allow_untrusted_native else "nowhere"


def test_every_combination() -> None:
    seen = set()
    for host, rules, job in product(HOSTS, RULES, JOBS):
        found = select_execution_mode(host, rules, **job)
        got = str(found.mode) if isinstance(found, Selected) else "nowhere"
        assert got == expected(host, rules, job), (host, rules, job)
        assert found.why
        # native for want of an engine is said; native by choice is no matter for a warning
        missed = got == "native" and rules.mode is not NATIVE and not usable(host, rules)
        assert bool(isinstance(found, Selected) and found.warning) == missed
        seen.add(got)
    assert seen == {"docker", "podman", "native", "nowhere"}
    assert len(HOSTS) * len(RULES) * len(JOBS) == 18 * 8 * 16


@given(
    host=st.sampled_from(HOSTS),
    mode=st.sampled_from(list(ExecutionMode)),
    job=st.fixed_dictionaries(
        {name: st.booleans() for name in ("requires_sandbox", "prefers_container")}
        | {"requires_gvisor": st.booleans()}
    ),
)
def test_no_untrusted_job_runs_natively_unless_the_operator_allows_it(
    host: ExecutionCapabilities, mode: ExecutionMode, job: dict[str, bool]
) -> None:
    found = select_execution_mode(host, NodeRules(mode=mode), **job, trusted=False)
    assert isinstance(found, NoMode) or found.mode is not NATIVE


@given(host=st.sampled_from(HOSTS), rules=st.sampled_from(RULES), trusted=st.booleans())
def test_gvisor_is_never_replaced_by_less(
    host: ExecutionCapabilities, rules: NodeRules, trusted: bool
) -> None:
    found = select_execution_mode(
        host,
        rules,
        requires_sandbox=True,
        prefers_container=True,
        requires_gvisor=True,
        trusted=trusted,
    )
    assert isinstance(found, NoMode) or (host.has_gvisor and found.mode in (DOCKER, PODMAN))


def test_auto_prefers_docker_where_its_level_is_higher() -> None:
    both = HOSTS[-1]
    wants = {"requires_sandbox": True, "prefers_container": True}
    found = select_execution_mode(both, NodeRules(mode=AUTO), **wants)
    assert isinstance(found, Selected)
    assert (found.mode, found.level) == (DOCKER, SandboxLevel.FULL)
    loose = replace(both.engines[0], facts=replace(both.engines[0].facts, loosened=("no_network",)))
    found = select_execution_mode(
        replace(both, engines=(loose, both.engines[1])), NodeRules(mode=AUTO), **wants
    )
    assert isinstance(found, Selected)
    assert (found.mode, found.level) == (PODMAN, SandboxLevel.BASIC)


def test_a_refusal_names_what_each_engine_lacks() -> None:
    broken = ExecutionCapabilities(engines=(*engine("docker", "broken"),))
    found = select_execution_mode(
        broken, NodeRules(mode=AUTO), requires_sandbox=True, prefers_container=True
    )
    assert isinstance(found, NoMode)
    assert "docker keeps no limit on memory" in found.why
