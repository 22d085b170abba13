"""A server, and a node's store with its policy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.store.serving import Server
from worker.store.cache import Cache
from worker.store.fetching import Fetcher
from worker.store.policy import Policy


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as serving:
        yield serving


@pytest.fixture
def policy(tmp_path: Path) -> Callable[..., Policy]:
    """The policy of a node that allows the test's server; the cache is the test's own."""

    def make(**changed: Any) -> Policy:
        data = tmp_path / "data"
        data.mkdir(exist_ok=True)
        usual: dict[str, Any] = {
            "roots": (data,),
            "schemes": ("builtin", "file", "http", "local"),
            "hosts": ("*", "127.0.0.1"),
            "options": {},
            "cache": tmp_path / "cache",
            "cap": 1 << 30,
            "keep_free": 0,
            "code_bytes": 1 << 20,
            "code_files": 100,
            "artifacts": str(tmp_path / "artifacts"),
            "output_bytes": 0,
            "stall": 20.0,
        }
        return Policy(**{**usual, **changed})

    return make


@pytest.fixture
def fetcher(policy: Callable[..., Policy]) -> Callable[..., Fetcher]:
    def make(
        *,
        check: Callable[[], None] = lambda: None,
        moved: Callable[..., None] = lambda shown, moved: None,
        **changed: Any,
    ) -> Fetcher:
        rules = policy(**changed)
        cache = Cache(rules.cache, cap=rules.cap, keep_free=rules.keep_free)
        return Fetcher(cache, rules, check=check, moved=moved)

    return make


def leftovers(cache: Path) -> list[str]:
    """What is half done in the cache."""
    return sorted(path.name for path in (cache / "partial").iterdir())


def entries(cache: Path) -> list[str]:
    """What is in the cache."""
    return sorted(path.name for path in (cache / "entries").iterdir())
