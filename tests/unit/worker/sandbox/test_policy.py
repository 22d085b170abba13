"""The table of what a node may do with a job, and that its queues agree with it."""

from __future__ import annotations

from itertools import product

import pytest

from tasks.choices import Sandbox
from tasks.ladders import SandboxClass, sandbox_class
from worker.config import ExecutionMode
from worker.sandbox.policy import Confinement, Placement, placement, sandbox_classes

pytestmark = pytest.mark.unit

CONTAINER, NATIVE, NOWHERE = Placement.CONTAINER, Placement.NATIVE, Placement.NOWHERE
GVISOR, REQUIRED, OPTIONAL = SandboxClass.GVISOR, SandboxClass.REQUIRED, SandboxClass.OPTIONAL
BOOLS = (False, True)
NODES = [
    Confinement(
        mode=mode,
        engine_usable=engine,
        allow_untrusted_native=allow,
        has_trust_keys=keys,
        has_gvisor=gvisor,
    )
    for mode, engine, allow, keys, gvisor in product(ExecutionMode, BOOLS, BOOLS, BOOLS, BOOLS)
]


@pytest.mark.parametrize("node", NODES, ids=str)
def test_a_node_reads_the_queues_of_exactly_those_jobs_that_it_can_place(
    node: Confinement,
) -> None:
    """A signed job may turn out to be trusted here only if the node has keys."""
    for sandbox, signed in product(Sandbox, BOOLS):
        trusted = signed and node.has_trust_keys
        # `required` and `gvisor` jobs are queued without regard to whether they are signed
        subscribed = sandbox_class(sandbox, signed=signed) in sandbox_classes(node)
        assert subscribed == (placement(node, sandbox, trusted=trusted) is not NOWHERE)


@pytest.mark.parametrize(
    ("mode", "engine", "allow", "trusted", "sandbox", "where"),
    [
        ("auto", True, False, False, "required", CONTAINER),
        ("docker", True, True, False, "none", CONTAINER),
        ("podman", True, False, True, "preferred", CONTAINER),
        ("auto", True, False, True, "none", NATIVE),
        ("auto", False, False, True, "none", NATIVE),
        ("auto", False, False, True, "preferred", NATIVE),
        ("auto", False, False, True, "required", NOWHERE),
        ("auto", False, False, False, "none", NOWHERE),
        ("docker", False, True, False, "required", NATIVE),
        ("docker", False, True, True, "gvisor", NOWHERE),
        ("native", True, False, True, "preferred", NATIVE),
        ("native", True, False, True, "required", NOWHERE),
        ("native", True, False, False, "none", NOWHERE),
        ("native", True, True, False, "required", NATIVE),
        ("native", True, True, True, "gvisor", NOWHERE),
        ("auto", True, True, True, "gvisor", CONTAINER),
    ],
)
def test_the_table(
    mode: str, engine: bool, allow: bool, trusted: bool, sandbox: str, where: Placement
) -> None:
    node = Confinement(
        mode=ExecutionMode(mode),
        engine_usable=engine,
        allow_untrusted_native=allow,
        has_trust_keys=True,
        has_gvisor=True,
    )
    assert placement(node, Sandbox(sandbox), trusted=trusted) is where


@pytest.mark.parametrize("mode", list(ExecutionMode))
def test_gvisor_needs_runsc(mode: ExecutionMode) -> None:
    node = Confinement(
        mode=mode,
        engine_usable=True,
        allow_untrusted_native=True,
        has_trust_keys=True,
        has_gvisor=False,
    )
    assert placement(node, Sandbox.GVISOR, trusted=True) is NOWHERE
    assert GVISOR not in sandbox_classes(node)


def test_what_nodes_of_each_kind_read() -> None:
    def reads(mode: str, engine: bool, allow: bool, keys: bool, gvisor: bool) -> set[SandboxClass]:
        node = Confinement(
            mode=ExecutionMode(mode),
            engine_usable=engine,
            allow_untrusted_native=allow,
            has_trust_keys=keys,
            has_gvisor=gvisor,
        )
        return set(sandbox_classes(node))

    assert reads("auto", True, False, False, True) == {GVISOR, REQUIRED, OPTIONAL}
    assert reads("auto", True, False, False, False) == {REQUIRED, OPTIONAL}
    assert reads("auto", False, False, True, True) == {OPTIONAL}
    assert reads("native", True, True, False, True) == {REQUIRED, OPTIONAL}
    assert reads("native", True, False, True, True) == {OPTIONAL}
    assert reads("native", True, False, False, True) == set()
