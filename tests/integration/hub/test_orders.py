"""Orders for a running attempt: whatever is said on its channel, the next order is heard."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.conftest import Hub
from tests.support.waiting import wait_until
from worker.orders import Orders

pytestmark = pytest.mark.integration

HOSTILE = (
    "[" * 100_000,
    '{"op":' * 100_000,
    json.dumps({"op": "pause", "why": "x" * (2 << 20)}),
    '{"op": "exec", "seconds": ' + "9" * 400 + "}",
    '{"op": "exec", "seconds": ' + "9" * 5_000 + "}",
    '{"op": "exec", "seconds": NaN}',
    '{"op": "exec", "x": ' + "[" * 100 + "]" * 100 + "}",
    '{"op": "exec", "x": "\\ud800"}',
    *('{"op": "pause", "op": "cancel"}', '{"op": ["pause"]}', "{}", "[]", "5", "{", "\x00", ""),
)


class Listener:
    """Hears, and has a fault where it is told to fail."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.listens = False

    def order(self, op: str, order: Mapping[str, Any]) -> None:
        self.heard.append(op)
        if op == "fail":
            raise ZeroDivisionError(order)

    def listening(self) -> None:
        self.listens = True


@pytest.fixture
def orders(hub: Hub) -> Iterator[Orders]:
    made = Orders(hub.settings, "node-a")
    yield made
    made.close()


def test_no_order_is_the_last_that_is_heard(hub: Hub, orders: Orders) -> None:
    listener = Listener()
    orders.listen("job-1", listener)
    wait_until(lambda: listener.listens, what="the subscription")
    channel = hub.keys.control("node-a", "job-1")
    for text in (*HOSTILE, b"\xff\xfe", json.dumps({"op": "fail"}), json.dumps({"op": "pause"})):
        assert hub.client.publish(channel, text) == 1, "it still listens, on the same connection"
    wait_until(lambda: listener.heard == ["fail", "pause"], what="what is an order")
    again = Listener()
    orders.listen("job-2", again)
    wait_until(lambda: again.listens, what="the next job's subscription")
