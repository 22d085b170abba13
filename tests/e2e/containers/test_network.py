"""A network on a whole node: for jobs whose key's scope has it, while it is shown to be fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import pytest
import yaml

from tasks.control import cancel
from tasks.errors import JobRejected
from tasks.events import Retrying
from tasks.following import follow
from tasks.trust import SigningKey, sign
from tests.support.contained import Contained
from tests.support.networks import Network, network

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


@pytest.fixture
def bridge(raw: docker.APIClient) -> Iterator[Network]:
    with network(raw) as made:
        yield made


def test_a_key_gives_a_network_that_reaches_no_metadata(
    start_contained: Callable[..., Contained], bridge: Network, tmp_path: Path
) -> None:
    alice, bob = SigningKey.generate(), SigningKey.generate()
    keys = []
    for name, key in (("alice", alice), ("bob", bob)):
        path = tmp_path / f"{name}.pub"
        scope = {"network": name == "alice"}
        path.write_text(
            yaml.safe_dump({"name": name, "public_key": str(key.public), "scope": scope})
        )
        path.chmod(0o644)
        keys.append(str(path))
    node = start_contained(extra={"trust": {"keys": keys}, "docker": {"network": bridge.name}})
    with bridge.greeting() as port:
        script = (
            "import socket\n"
            f"with socket.create_connection(('{bridge.gateway}', {port}), timeout=5) as made:\n"
            "    print(made.recv(5).decode())"
        )
        job = {"command": ["python3", "-c", script], "network": "bridge"}
        with bridge.blocked():
            done = node.cluster.submit(sign(job, alice).to_wire())
            done.get(timeout=60)
            assert node.cluster.logged(done) == ["hello"]
            refused = node.cluster.submit(sign(job, bob).to_wire())
            with pytest.raises(JobRejected, match="network: bridge is not in the key's scope"):
                refused.get(timeout=60)
        # the rule is gone: the next job does not start
        sent = node.cluster.submit(sign(job, alice).to_wire())
        for one in follow(sent.id, settings=node.cluster.settings, timeout=60):
            if isinstance(one.event, Retrying):
                assert "169.254.169.254 is not blocked" in one.event.message
                break
        else:
            pytest.fail("it was not handed back")
    cancel(sent.id, app=node.cluster.app)
    node.cluster.wait_state(sent)
    node.wait_clean()
