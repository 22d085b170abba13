"""The project's own way of acknowledging messages, on a channel of kombu's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from kombu import Queue

from tests.conftest import Hub

pytestmark = pytest.mark.integration


@pytest.fixture
def channel(hub: Hub) -> Iterator[Any]:
    with hub.app.connection_for_read() as connection:
        yield connection.channel()


def send(hub: Hub, channel: Any, count: int) -> Any:
    """The bound queue, with so many messages in it."""
    queue = Queue("a-queue", routing_key="a-queue")(channel)
    queue.declare()
    with hub.app.producer_pool.acquire() as producer:
        for number in range(count):
            producer.publish({"number": number}, routing_key="a-queue")
    return queue


def unacknowledged(hub: Hub) -> tuple[int, int]:
    return hub.client.hlen(hub.keys.unacked), hub.client.zcard(hub.keys.unacked_index)


def test_an_acknowledgement_goes_along_with_the_next_message(hub: Hub, channel: Any) -> None:
    queue = send(hub, channel, 3)
    first = queue.get()
    assert unacknowledged(hub) == (1, 1)
    first.ack()
    assert channel.qos.can_consume()
    second = queue.get()
    assert unacknowledged(hub) == (1, 1)  # the second alone
    assert hub.client.hexists(hub.keys.unacked, second.delivery_tag)
    third = queue.get()
    second.ack()
    third.reject()
    assert unacknowledged(hub) == (0, 0)


@pytest.mark.parametrize("how", ["in the loop", "at the end"])
def test_what_waits_is_acknowledged_without_a_next_message(
    hub: Hub, channel: Any, how: str
) -> None:
    send(hub, channel, 1).get().ack()
    if how == "in the loop":
        channel.maybe_refresh_binding_expiry()  # kombu's calls it every second
    else:
        channel.close()
    assert unacknowledged(hub) == (0, 0)


def test_a_channel_uses_one_client_and_a_new_one_after_its_pool_is_gone(
    hub: Hub, channel: Any
) -> None:
    def client() -> Any:
        with channel.conn_or_acquire() as found:
            assert found.ping()
            return found

    first = client()
    assert client() is first
    channel._disconnect_pools()
    assert client() is not first
