"""Which messages a worker is given, and why the others are not."""

from __future__ import annotations

import base64
import contextlib
import json
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.messages import MOST_BYTES, Unfit, check_message, check_record
from tasks.publishing import TRAIN, kombu_message

pytestmark = pytest.mark.unit

HEADERS: dict[str, Any] = {
    "lang": "py", "task": TRAIN, "id": "job-1", "shadow": None, "eta": None, "expires": None,
    "group": None, "group_index": None, "retries": 0, "timelimit": [None, None],
    "root_id": "job-1", "parent_id": None, "origin": "gen1@host", "ignore_result": False,
    "stamped_headers": None, "stamps": {}, "replaced_task_nesting": 0,
}  # fmt: skip
PROPERTIES = {"correlation_id": "job-1", "reply_to": "x"}
BODY = [[{"command": ["true"]}], {}, {"callbacks": None, "chain": None, "chord": None}]


def message(**parts: Any) -> dict[str, Any]:
    headers = {**HEADERS, **parts.pop("headers", {})}
    properties = {**PROPERTIES, **parts.pop("properties", {})}
    made = json.loads(kombu_message(headers, properties, BODY, "work.x", 6))
    made["properties"] |= {key: value for key, value in properties.items() if key in PROPERTIES}
    return {**made, **parts}


def why(found: object) -> str:
    raw = found if isinstance(found, str | bytes) else json.dumps(found)
    with pytest.raises(Unfit) as caught:
        check_message(raw, [TRAIN])
    return str(caught.value)


def deep(levels: int) -> str:
    return "[" * levels + "]" * levels


def test_what_a_producer_sends_is_given_to_a_worker() -> None:
    check_message(json.dumps(message()), [TRAIN])
    check_message(json.dumps(message(headers={"cyxwiz_v": 1, "another": "one"})).encode(), [TRAIN])
    # what kombu's own retry and an older Celery leave out
    check_message(json.dumps(message(headers={"timelimit": None, "redelivered": True})), [TRAIN])


PICKLED = base64.b64encode(pickle.dumps({"command": ["true"]})).decode()


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (b"\x80\x04\x95", "the message is no JSON"),
        ("", "the message is no JSON"),
        ("[1]", "the message is no object"),
        ("9" * 5_000, "the message is no JSON"),
        ({}, "headers or properties are no object"),
        ({"headers": [], "properties": {}}, "headers or properties are no object"),
        (deep(100_000), "the message is nested too deep"),
        (deep(65), "the message is nested deeper than 64 levels"),
        (message(headers={"task": "os.system"}), "task 'os.system' is none of this node's"),
        (message(headers={"task": ["tasks.train"]}), "task ['tasks.train'] is none"),
        (message(headers={"task": "celery.map"}), "task 'celery.map' is none"),
        (message(headers={"id": None}), "id None can be no job's"),
        (message(headers={"id": "../x"}), "id '../x' can be no job's"),
        (message(headers={"id": 5}), "id 5 can be no job's"),
        (message(headers={"cyxwiz_v": 2}), "version 2 of the message; this node reads 1"),
        (message(headers={"cyxwiz_v": True}), "version True of the message"),
        (message(headers={"cyxwiz_v": "1"}), "version '1' of the message"),
        (message(headers={"cyxwiz_at": 1.5}), "header cyxwiz_at is of the type float"),
        (message(headers={"retries": "x"}), "header retries is of the type str"),
        (message(headers={"retries": True}), "header retries is of the type bool"),
        (message(headers={"stamps": []}), "header stamps is of the type list"),
        (message(headers={"expires": 5}), "header expires is of the type int"),
        (message(headers={"eta": "2030-01-01"}), "header eta: a job is queued at once"),
        (message(headers={"timelimit": [1, None]}), "header timelimit: a job's time-outs"),
        (message(properties={"correlation_id": {}}), "property correlation_id is of the type"),
        ({**message(), "content-type": "application/x-python-serialize", "body": PICKLED},
         "content-type 'application/x-python-serialize': JSON is read, and nothing else"),
        ({**message(), "content-encoding": "binary"}, "content-encoding 'binary': utf-8"),
        ({**message(), "body": PICKLED}, "the body is no JSON"),
        ({**message(), "body": "?"}, "the body is no base64"),
        ({**message(), "body": None}, "the body is no text"),
        ({**message(), "body": base64.b64encode(b"{}").decode()}, "the body is no list of"),
        ({**message(), "body": base64.b64encode(b"[1,{},{}]").decode()}, "the body is no list of"),
        ({**message(), "body": base64.b64encode(deep(100_000).encode()).decode()},
         "the body is nested too deep"),
    ],
)  # fmt: skip
def test_what_is_no_jobs_message_is_not(found: object, reason: str) -> None:
    assert reason in why(found)


def test_a_message_has_its_largest_size() -> None:
    assert why(" " * (MOST_BYTES + 1)) == f"{MOST_BYTES + 1} bytes; at most {MOST_BYTES}"


@pytest.mark.parametrize("part", ["delivery_tag", "delivery_info"])
def test_kombus_own_properties_are_there(part: str) -> None:
    found = message()
    del found["properties"][part]
    assert part in why(found)
    found["properties"][part] = 5
    assert part in why(found)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from([*HEADERS, *PROPERTIES, "headers", "x"]), inner, max_size=4
        )
    ),
    max_leaves=20,
)


def no_fault(raw: str) -> None:
    """Both checks let it pass, or raise what says why."""
    with contextlib.suppress(Unfit):
        check_message(raw, [TRAIN])
    with contextlib.suppress(Unfit):
        check_record(raw)


@given(st.dictionaries(st.sampled_from([*HEADERS, "cyxwiz_v"]), JSON, max_size=3), JSON, JSON)
def test_no_message_is_a_fault_of_ours(headers: Any, body: Any, properties: Any) -> None:
    encoded = base64.b64encode(json.dumps(body).encode()).decode()
    no_fault(json.dumps({**message(), "headers": {**HEADERS, **headers}}))
    no_fault(json.dumps({**message(), "properties": properties}))
    no_fault(json.dumps({**message(), "body": encoded}))
    no_fault(json.dumps({**message(), "body": body}))
    no_fault(json.dumps(body))


@given(st.binary(max_size=200))
def test_no_bytes_are_a_fault_of_ours(raw: bytes) -> None:
    for check in (lambda: check_message(raw, [TRAIN]), lambda: check_record(raw)):
        with pytest.raises(Unfit):
            check()


def test_an_entry_of_unacked_is_a_message_that_was_given() -> None:
    check_record(json.dumps([message(), "", "work.x"]))
    for wrong in ("", "{}", "[1,2,3]", json.dumps([{}, "", "q"]), json.dumps([message(), 1, "q"])):
        with pytest.raises(Unfit):
            check_record(wrong)
