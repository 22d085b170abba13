"""Who gets how much: the job's wish, the node's defaults and caps, the host's size."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.job import JobConfig
from worker.config import NodeConfig
from worker.limits import HostSize, OverCap, effective_limits, effective_timeout
from worker.plan import Limits

pytestmark = pytest.mark.unit


def job(**fields: Any) -> JobConfig:
    return JobConfig.parse({"command": ["true"], "required_device": "cpu", **fields})


def node(default: dict[str, Any] | None = None, most: dict[str, Any] | None = None) -> NodeConfig:
    docker: dict[str, Any] = {"max_limits": most or {}}
    if default is not None:
        docker["default_limits"] = default
    return NodeConfig.model_validate({"docker": docker})


def granted(result: Limits | OverCap) -> Limits:
    assert isinstance(result, Limits), result
    return result


def test_a_job_that_asks_for_nothing_gets_the_defaults() -> None:
    limits = granted(effective_limits(job(), node()))
    assert (limits.memory_mb, limits.cpu_cores, limits.shm_size_mb) == (16_384, 4.0, 2_048)
    assert (limits.pids, limits.nofile, limits.output_mb) == (1_024, 65_536, 10_240)


def test_a_job_gets_what_it_asks_for_above_the_defaults() -> None:
    asks = job(memory_mb=20_000, cpu_cores=8, shm_size_mb=4_000)
    limits = granted(effective_limits(asks, node()))
    assert (limits.memory_mb, limits.cpu_cores, limits.shm_size_mb) == (20_000, 8.0, 4_000)


@pytest.mark.parametrize("field", ["memory_mb", "cpu_cores", "shm_size_mb"])
def test_more_than_the_maximum_is_refused_with_the_reason(field: str) -> None:
    config = node({field: 50}, {field: 100})
    assert isinstance(effective_limits(job(**{field: 100}), config), Limits)
    over = effective_limits(job(**{field: 101}), config)
    assert isinstance(over, OverCap)
    what = f"{field} is 101, and this node gives at most 100 (docker.max_limits.{field})"
    assert over.reason == what


def test_a_default_of_0_is_the_cap_and_a_cap_of_0_is_the_host() -> None:
    zero = {"memory_mb": 0, "cpu_cores": 0, "shm_size_mb": 0, "pids": 0}
    capped = node(zero, {"memory_mb": 100, "cpu_cores": 2, "shm_size_mb": 3, "pids": 4})
    limits = granted(effective_limits(job(), capped))
    assert (limits.memory_mb, limits.cpu_cores, limits.shm_size_mb, limits.pids) == (100, 2, 3, 4)
    host = HostSize(memory_mb=8_000, cpu_cores=2)
    limits = granted(effective_limits(job(), node(zero), host))
    assert (limits.memory_mb, limits.cpu_cores) == (8_000, 2.0)
    assert isinstance(effective_limits(job(memory_mb=8_001), node(zero), host), OverCap)
    unlimited = granted(effective_limits(job(), node(zero)))
    assert (unlimited.memory_mb, unlimited.cpu_cores, unlimited.pids) == (0, 0.0, 0)


def test_defaults_bend_to_a_small_host() -> None:
    limits = granted(effective_limits(job(), node(), HostSize(memory_mb=4_000, cpu_cores=2)))
    assert (limits.memory_mb, limits.cpu_cores) == (4_000, 2.0)


_amount = st.integers(0, 100)


@given(_amount, _amount, _amount, st.none() | st.integers(16, 100))
def test_nothing_above_a_cap_is_ever_granted(
    default: int, most: int, has: int, ask: int | None
) -> None:
    if 0 < most < default:
        return
    config = node({"memory_mb": default}, {"memory_mb": most})
    result = effective_limits(job(memory_mb=ask), config, HostSize(memory_mb=has))
    caps = [cap for cap in (most, has) if cap]
    if isinstance(result, OverCap):
        assert ask is not None
        assert any(ask > cap for cap in caps)
        return
    assert all(0 < result.memory_mb <= cap for cap in caps)
    if ask is not None:
        assert result.memory_mb == ask


@pytest.mark.parametrize(
    ("ask", "cap", "seconds"), [(None, 0, None), (5, 0, 5), (None, 7, 7), (5, 7, 5), (9, 7, 7)]
)
def test_the_shorter_timeout_holds(ask: float | None, cap: float, seconds: float | None) -> None:
    config = NodeConfig.model_validate({"timeouts": {"job": cap}})
    assert effective_timeout(job(timeout_seconds=ask), config) == seconds
