"""To what the checkpoints of a job are bound."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.job import JobConfig
from worker.binding import UNBOUND, Binding, is_binding

pytestmark = pytest.mark.unit

JOB: dict[str, Any] = {"job_id": "a", "command": ["train"], "epochs": 3}
ALICE, BOB = "a" * 32, "b" * 32


def of(signer: str = ALICE, **fields: Any) -> Binding:
    return Binding.of(JobConfig.parse({**JOB, **fields}).digest(), signer)


@pytest.mark.parametrize(
    "fields",
    [
        {"command": ["train", "--harder"]},
        {"job_id": "b"},
        {"epochs": 4},
        {"env": {"PATH": "/tmp"}},
        {"signature": "of another time"},
        {"signer": BOB},
        {"signer": ""},
    ],
)
def test_another_one_if_anything_is_another(fields: dict[str, Any]) -> None:
    other = of(**fields)
    assert other.name != of().name
    assert not other.takes(of().name)
    assert not of().takes(other.name)


def test_the_same_one_however_it_is_written() -> None:
    turned = JobConfig.parse({**dict(reversed(JOB.items())), "priority": "normal"})
    assert Binding.of(turned.digest(), ALICE) == of()
    assert is_binding(of().name)


def test_what_is_not_bound_is_no_signed_jobs() -> None:
    assert of("").takes(UNBOUND)
    assert not of(ALICE).takes(UNBOUND)


@pytest.mark.parametrize("name", [UNBOUND, "..", "../a", "a" * 31, "A" * 32, f"{'a' * 32}\n"])
def test_what_can_be_no_binding(name: str) -> None:
    assert not is_binding(name)
