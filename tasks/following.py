"""Follow a job: every event once, in order, however late the follower joins.

It subscribes first, then reads the stored history, then takes from the channel what comes after
it. A message that was missed (a reconnection, a slow reader) shows as a gap, and the history is
read again. (The module is not called `follow`, or it would hide the function in the package.)
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from typing import TYPE_CHECKING, Any, Final

import redis
import redis.asyncio

from tasks.errors import UnknownJob
from tasks.events import Envelope
from tasks.keys import Keys
from tasks.sequence import Sequence
from tasks.settings import Settings, unavailable
from tasks.state import JobState

if TYPE_CHECKING:
    from tasks.job import JobConfig
    from tasks.roots import TrustRoot

_LOOK_AFTER_S: Final = 5.0
"""Silence after which the record is looked at: a channel can be deaf without knowing it."""
_AGAIN_AT_MOST_S: Final = 2.0
_ENDS: Final = frozenset(one for one in JobState if one.terminal)


def follow(
    job_id: str,
    *,
    settings: Settings | None = None,
    timeout: float | None = None,
    reconnect_for: float = 300.0,
    trust: TrustRoot | str | os.PathLike[str] | None = None,
    spec: JobConfig | str | None = None,
) -> Generator[Envelope, None, None]:
    """The job's events, from its first to its end.

    ``timeout``: seconds of following, then TimeoutError. ``reconnect_for``: seconds for which a
    Redis that went away is waited for. ``trust``: a `tasks.roots.TrustRoot`, or the path of one:
    what is not the signed word of a node in it is an error. ``spec``: what was submitted, as
    `JobResult.submitted` has it, or its `JobConfig.digest`: the end of another configuration is an
    error, too; without, the configuration is not checked.

    Raises UnknownJob, RedisUnavailable, TimeoutError, ValueError: ``spec`` without ``trust``; with
    ``trust`` KeyUnusable and, as soon as it meets such an event, NotSigned, NodeUntrusted, Forged.
    """
    hub = Settings.from_env() if settings is None else settings
    sequence, patience = _sequence(job_id, trust, spec), _Patience(timeout, reconnect_for)
    client = hub.connect(timeout=10.0)
    try:
        while not sequence.ended:
            try:
                yield from _listen(client, hub.keys, job_id, sequence, patience)
            except (redis.ConnectionError, redis.TimeoutError) as error:
                time.sleep(patience.after(error, hub))
    finally:
        client.close()


async def follow_async(
    job_id: str,
    *,
    settings: Settings | None = None,
    timeout: float | None = None,
    reconnect_for: float = 300.0,
    trust: TrustRoot | str | os.PathLike[str] | None = None,
    spec: JobConfig | str | None = None,
) -> AsyncGenerator[Envelope, None]:
    """As `follow`, for asyncio."""
    hub = Settings.from_env() if settings is None else settings
    sequence, patience = _sequence(job_id, trust, spec), _Patience(timeout, reconnect_for)
    client = hub.connect_async(timeout=10.0)
    try:
        while not sequence.ended:
            try:
                async for envelope in _listen_async(client, hub.keys, job_id, sequence, patience):
                    yield envelope
            except (redis.ConnectionError, redis.TimeoutError) as error:
                await asyncio.sleep(patience.after(error, hub))
    finally:
        await client.aclose()


def _sequence(
    job_id: str,
    trust: TrustRoot | str | os.PathLike[str] | None,
    spec: JobConfig | str | None,
) -> Sequence:
    if trust is None:
        if spec is not None:
            raise ValueError("spec: is compared with what a node has signed; so trust is needed")
        return Sequence(job_id)
    from tasks.proving import Checker  # no cost to who asks for no proof
    from tasks.roots import TrustRoot

    if spec is not None and not isinstance(spec, str):
        spec = spec.with_job_id(job_id).digest()
    return Sequence(job_id, Checker(job_id, TrustRoot.of(trust), spec))


class _Patience:
    """How long to go on: with a job that is silent, with a Redis that is away."""

    def __init__(self, timeout: float | None, reconnect_for: float) -> None:
        self._end = None if timeout is None else time.monotonic() + timeout
        self._reconnect_for = reconnect_for
        self._away_since: float | None = None
        self._seen = False

    def wait(self) -> float:
        """How long to wait for the next message. Raises TimeoutError."""
        if self._end is None:
            return _LOOK_AFTER_S
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError("the job did not end within the time given to follow it")
        return min(left, _LOOK_AFTER_S)

    def answered(self) -> None:
        """Redis is there."""
        self._seen, self._away_since = True, None

    def after(self, error: Exception, hub: Settings) -> float:
        """How long to wait before connecting again. Raises RedisUnavailable."""
        now = time.monotonic()
        if self._away_since is None:
            self._away_since = now
        away = now - self._away_since
        # one that was never reached is not waited for: its URL is wrong, or it is not started
        if not self._seen or away > self._reconnect_for:
            raise unavailable(hub.redis_url, error) from error
        self.wait()
        return min(0.1 + away / 4, _AGAIN_AT_MOST_S)


def _listen(
    client: redis.Redis, keys: Keys, job_id: str, sequence: Sequence, patience: _Patience
) -> Iterator[Envelope]:
    with client.pubsub() as pubsub:  # type: ignore[no-untyped-call]  # redis-py
        pubsub.subscribe(keys.events(job_id))
        _confirmed(pubsub.get_message(timeout=5.0))
        yield from _look(client, keys, job_id, sequence)
        patience.answered()
        while not sequence.ended:
            message = pubsub.get_message(timeout=patience.wait(), ignore_subscribe_messages=True)
            found = None if message is None else sequence.live(message["data"])
            if found is None:
                found = _look(client, keys, job_id, sequence)
            patience.answered()
            yield from found


def _look(client: redis.Redis, keys: Keys, job_id: str, sequence: Sequence) -> list[Envelope]:
    """What is stored, and was not given out."""
    stored = _ask(client.pipeline(), keys, job_id, sequence.last).execute()
    found, anew = _catch_up(stored, job_id, sequence)
    if anew:
        found += _anew(_ask(client.pipeline(), keys, job_id, 0).execute(), job_id, sequence)
    return found


async def _listen_async(
    client: redis.asyncio.Redis,
    keys: Keys,
    job_id: str,
    sequence: Sequence,
    patience: _Patience,
) -> AsyncIterator[Envelope]:
    async with client.pubsub() as pubsub:
        await pubsub.subscribe(keys.events(job_id))
        _confirmed(await pubsub.get_message(timeout=5.0))
        for envelope in await _look_async(client, keys, job_id, sequence):
            yield envelope
        patience.answered()
        while not sequence.ended:
            message = await pubsub.get_message(
                timeout=patience.wait(), ignore_subscribe_messages=True
            )
            found = None if message is None else sequence.live(message["data"])
            if found is None:
                found = await _look_async(client, keys, job_id, sequence)
            patience.answered()
            for envelope in found:
                yield envelope


async def _look_async(
    client: redis.asyncio.Redis, keys: Keys, job_id: str, sequence: Sequence
) -> list[Envelope]:
    stored = await _ask(client.pipeline(), keys, job_id, sequence.last).execute()
    found, anew = _catch_up(stored, job_id, sequence)
    if anew:
        found += _anew(await _ask(client.pipeline(), keys, job_id, 0).execute(), job_id, sequence)
    return found


def _confirmed(message: Any) -> None:
    if message is None or message["type"] != "subscribe":
        raise redis.TimeoutError("the subscription was not confirmed")


def _ask(pipe: Any, keys: Keys, job_id: str, after: int) -> Any:
    """Queue up, to be read in one transaction: how far the record is, what is stored after one."""
    pipe.hmget(keys.job(job_id), "seq", "state", "node", "fence", "attempt", "proof")
    pipe.xrange(keys.history(job_id), f"({after}-0")
    pipe.xrange(keys.tail(job_id), f"({after}-0")
    return pipe


def _catch_up(answer: list[Any], job_id: str, sequence: Sequence) -> tuple[list[Envelope], bool]:
    """What was not given out; whether all that is stored must be read: see `Sequence.set_back`."""
    (seq, held), texts, over = _read(answer, job_id)
    found = sequence.caught_up(texts, seq, over=over)
    sequence.prove(found, *held)
    return found, sequence.set_back(seq, over=over)


def _anew(answer: list[Any], job_id: str, sequence: Sequence) -> list[Envelope]:
    (seq, _), texts, over = _read(answer, job_id)
    return sequence.told_anew(texts, seq, over=over)


def _read(answer: list[Any], job_id: str) -> tuple[tuple[int, list[str | None]], list[str], bool]:
    """Of an answer: how far the record is, who held it; the events; whether the job is over."""
    (seq, state, *held), history, tail = answer
    if seq is None:
        raise UnknownJob(
            f"no job {job_id!r}: it was never submitted to this Redis under this prefix, or its "
            "record has expired"
        )
    return (int(seq), held), [row["e"] for _, row in [*history, *tail]], state in _ENDS
