"""What each engine of this host keeps of the sandbox's promises, as ``cyxwiz doctor`` says it.

The tables stand at the end of what pytest says: the report of a CI run.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import SAID
from tests.support.cli import Cli
from tests.support.redis_server import RedisServer
from tests.support.runtimes import engine_socket

pytestmark = pytest.mark.integration

PROMISES = (
    *("user", "capabilities", "privileges", "system calls", "read-only root", "namespaces"),
    *("network", "memory", "pids", "cpu", "open files", "devices"),
)
"""Every promise: one that is missing here or there is a failure."""
ENFORCED = dict.fromkeys(PROMISES, "enforced")
ON_CGROUP_V1 = {**ENFORCED, "memory": "refused", "pids": "stood in for", "cpu": "stood in for"}
"""A rootless Podman's."""


@pytest.mark.parametrize("name", ["docker", pytest.param("podman", marks=pytest.mark.podman)])
def test_the_whole_table(
    name: str,
    tmp_path: Path,
    redis_server: RedisServer,
    record_property: Callable[[str, object], None],
) -> None:
    other = {"docker": "PODMAN", "podman": "DOCKER"}[name]
    env = {
        f"CYXWIZ_{name.upper()}__SOCKET": str(engine_socket(name)),
        f"CYXWIZ_{other}__ENABLED": "false",
        "CYXWIZ_EXECUTION__MODE": name,
        "CYXWIZ_REDIS_URL": redis_server.url,
        "CYXWIZ_NODE__STATE_DIR": str(tmp_path / "state"),
    }
    done = Cli(cwd=tmp_path)("doctor", "--json", "--probe", env=env)
    (report,) = (one for one in done.json["capabilities"]["engines"] if one["available"])
    found = {one["name"]: one["keeping"] for one in report["promises"]}
    record_property(SAID, table(name, report))
    ignores = bool(report["engine"]["why_ignored"])
    first = report["engine"]["cgroup_version"] == 1
    expected = ON_CGROUP_V1 if name == "podman" and first else ENFORCED
    if ignores and not first:  # some controllers are not delegated: only these may fall short
        expected = {**ENFORCED, **{one: found.get(one, "") for one in ("memory", "pids", "cpu")}}
        assert set(found.values()) <= {"enforced", "stood in for", "refused"}
    assert found == expected
    # what is refused keeps the engine from being used, and says why and what to do
    refused = [one for one in report["promises"] if one["keeping"] == "refused"]
    assert all(one["why"] and one["todo"] for one in refused)
    assert report["usable"] == (not refused)
    assert report["level"] == ("none" if refused else {"docker": "full", "podman": "basic"}[name])
    assert done.code == (1 if refused else 0), "no job could run here, or all can"


def table(name: str, report: dict[str, Any]) -> str:
    facts = report["engine"]
    title = f"{name} {facts['version']}, {facts['runtime']}, cgroup v{facts['cgroup_version']}"
    rows = [f"  {one['name']:<16}{one['keeping']:<14}{one['seen']}" for one in report["promises"]]
    return "\n".join([f"{title}: level {report['level']}", *rows])
