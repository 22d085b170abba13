"""kombu's Redis transport: no unfit message (`tasks.fitness`), and fewer round trips, in two ways
that only a subclass can have.

- kombu makes a new client object for each thing that it does, which costs as much as the command.
  Here a channel has one.
- A message is acknowledged as its job is claimed (`tasks.leases`), so kombu's own acknowledgement,
  after the job, finds nothing. Here it goes along with the next command on messages, or within a
  second. Should the worker die before, a message that nobody claimed is delivered again, and its
  record says what is to be done with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from kombu.connection import Connection, ConnectionPool, PooledConnection
from kombu.transport import redis as kombu_redis
from kombu.transport import virtual

from tasks.fitness import FitChannel, FitQoS


class JobQoS(FitQoS, kombu_redis.QoS):
    """Messages that were delivered and are not acknowledged yet."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]  # kombu
        self._waiting: list[str] = []

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge, in a moment; the next message may come now."""
        self._waiting.append(delivery_tag)
        virtual.QoS.ack(self, delivery_tag)  # type: ignore[no-untyped-call]  # kombu

    @contextmanager
    def pipe_or_acquire(self, pipe: Any = None, client: Any = None) -> Iterator[Any]:
        """A pipeline of commands on messages; what waits goes first."""
        with super().pipe_or_acquire(pipe, client) as made:
            waiting = len(self._waiting)
            if waiting:
                made.zrem(self.unacked_index_key, *self._waiting)
                for tag in self._waiting:  # kombu knows no prefix for more than one field
                    made.hdel(self.unacked_key, tag)
            yield made
        del self._waiting[:waiting]

    def settle(self) -> None:
        """Acknowledge what waits."""
        if self._waiting:
            with self.pipe_or_acquire() as pipe:
                pipe.execute()


class JobChannel(FitChannel, kombu_redis.Channel):
    """See the module's docstring."""

    QoS = JobQoS
    _one: Any = None

    @contextmanager
    def conn_or_acquire(self, client: Any = None) -> Iterator[Any]:
        """A client on the channel's pool, which it shares with all others."""
        if client is None:
            if self._one is None or self._one.connection_pool is not self.pool:
                self._one = self._create_client()
            client = self._one
        yield client

    def maybe_refresh_binding_expiry(self) -> None:
        """What kombu's event loop calls every second; what waits is acknowledged then, too."""
        if self._qos is not None:
            self._qos.settle()
        super().maybe_refresh_binding_expiry()  # type: ignore[no-untyped-call]  # kombu

    def close(self) -> None:
        """Acknowledge what waits, and close."""
        if not self.closed and self._qos is not None:
            with suppress(*self.connection_errors):
                self._qos.settle()
        super().close()  # type: ignore[no-untyped-call]  # kombu


class JobTransport(kombu_redis.Transport):
    """See the module's docstring."""

    Channel = JobChannel


class _SentinelQoS(FitQoS, kombu_redis.QoS):
    pass


class _SentinelChannel(FitChannel, kombu_redis.SentinelChannel):
    QoS = _SentinelQoS


class _SentinelTransport(kombu_redis.SentinelTransport):
    Channel = _SentinelChannel


class JobConnection(Connection):
    """kombu's, with this module's transport where the URL asks for Redis."""

    def get_transport_cls(self) -> Any:
        """The class of the transport."""
        found = super().get_transport_cls()  # type: ignore[no-untyped-call]  # kombu
        if found is kombu_redis.SentinelTransport:
            return _SentinelTransport
        return JobTransport if found is kombu_redis.Transport else found

    def Pool(self, limit: int | None = None, **kwargs: Any) -> ConnectionPool:  # noqa: N802 - kombu
        """A pool of such connections: producers publish by one."""
        return _Pool(self, limit, **kwargs)  # type: ignore[no-untyped-call]  # kombu


class _Pooled(JobConnection, PooledConnection):
    pass


class _Pool(ConnectionPool):
    def new(self) -> _Pooled:
        given = self.connection._info(resolve=False)  # noqa: SLF001 - as kombu does
        return _Pooled(self, **dict(given))  # type: ignore[no-untyped-call]  # kombu
