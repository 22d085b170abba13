"""Which jobs a node with this configuration would take at all."""

from __future__ import annotations

from worker.admission import confinement
from worker.cli.checks.base import Check, Situation, blocks, ok
from worker.sandbox.policy import sandbox_classes


def check_jobs(situation: Situation) -> Check:
    """The sandbox policy, with what this node can confine."""
    config = situation.config
    engine = situation.engine()
    can = confinement(config, engine)
    classes = sandbox_classes(can)
    how = f"in containers of {engine.name} {engine.version}" if can.containers else "natively"
    if not classes:
        return blocks(
            "policy",
            f"execution.mode is {can.mode}, no container engine is usable ({engine.reason}), and "
            "execution.allow_untrusted_native is false",
            why="no job may run: unsigned ones need a sandbox, and there is none",
            todo="set execution.allow_untrusted_native: true, if everybody who can submit jobs "
            "may do on this host what the node's user may",
        )
    return ok("policy", f"jobs run {how}, of the sandbox classes {', '.join(sorted(classes))}")
