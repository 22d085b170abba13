"""A network for jobs: none without a proof that the host's metadata cannot be reached from it."""

from __future__ import annotations

from collections.abc import Iterator

import docker
import pytest

from tests.integration.engine.jobs import Jobs
from tests.support import engine
from tests.support.networks import Network, network
from tests.support.runtimes import hear, soon
from worker.keeper.route_lookup import leads_somewhere
from worker.runtimes.engine.errors import SandboxUnavailable
from worker.runtimes.engine.networks import METADATA, prove_network

pytestmark = pytest.mark.integration

TRIES = """
import socket, sys
def dial(address, port):
    with socket.create_connection((address, port), timeout=5) as made:
        return made.recv(5).decode()
print(dial(sys.argv[1], int(sys.argv[2])))
try: print('REACHED', dial(sys.argv[3], 80))
except OSError as error: print('refused', type(error).__name__)
"""


@pytest.fixture
def bridge(raw: docker.APIClient) -> Iterator[Network]:
    with network(raw) as made:
        yield made


def test_one_that_leads_to_metadata_is_not_for_jobs(jobs: Jobs, bridge: Network) -> None:
    with pytest.raises(SandboxUnavailable, match=r"169\.254\.169\.254 is not blocked") as caught:
        prove_network(jobs.runtime.manager, bridge.name)
    assert f"ip rule add iif {bridge.name} to 169.254.0.0/16 prohibit" in str(caught.value)
    with bridge.blocked(most=1), pytest.raises(SandboxUnavailable, match=r"100\.100\.100\.200"):
        prove_network(jobs.runtime.manager, bridge.name)
    # what the rule refuses is what comes from this network alone
    with bridge.blocked():
        assert leads_somewhere("192.0.2.1", bridge.inside, bridge.bridge) == "outside"
        assert leads_somewhere(bridge.gateway, bridge.inside, bridge.bridge) == "the host"


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"enable_ipv6": True}, "it has IPv6"),
        ({"subnet": "169.254.7.0/24"}, "has addresses of metadata services"),
        ({"subnet": "100.100.100.0/24"}, "has addresses of metadata services"),
    ],
)
def test_one_of_which_nothing_is_proven_is_none(
    jobs: Jobs, raw: docker.APIClient, options: dict[str, object], why: str
) -> None:
    with (
        network(raw, **options) as made,
        made.blocked(),
        pytest.raises(SandboxUnavailable, match=why),
    ):
        prove_network(jobs.runtime.manager, made.name)


@pytest.mark.parametrize("name", ["nobodys-network", "host", "none"])
def test_what_is_no_bridge_is_none(jobs: Jobs, name: str) -> None:
    with pytest.raises(SandboxUnavailable, match=f"network {name}: "):
        prove_network(jobs.runtime.manager, name)


def test_a_job_reaches_its_network_and_no_metadata(jobs: Jobs, bridge: Network) -> None:
    with bridge.blocked(), bridge.greeting() as port:
        prove_network(jobs.runtime.manager, bridge.name)
        argv = (engine.PYTHON, "-S", "-c", TRIES, bridge.gateway, str(port), METADATA[0])
        handle = jobs.runtime.start(jobs.plan("", network=bridge.name, argv=argv), soon())
        heard = hear(handle, timeout=60)
        assert heard.out.startswith(b"hello\nrefused ")
        report = handle.report  # type: ignore[attr-defined]
        assert report.loosened == ("no_network",)
        handle.remove()
        # beside it, a job without one
        other = jobs.run(
            "import socket\n"
            f"try: socket.create_connection(('{bridge.gateway}', {port}), timeout=5)\n"
            "except OSError as error: print(error.errno)"
        )[0]
        assert other.out == b"101\n"
    jobs.places.release()
