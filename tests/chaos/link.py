"""The only way of one node to its Redis: a relay that the test can cut, and mend."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from pathlib import Path
from typing import Final

_PIECE: Final = 1 << 16


class Link:
    """Listens on 127.0.0.1 and passes on to a Unix socket. A thread of its own.

    Cut, it is a network that swallows packets: connections stay, new ones are taken, and nothing
    comes through. What had been sent meanwhile comes through when it is mended.
    """

    def __init__(self, target: Path) -> None:
        self._target = target
        self._loop = asyncio.new_event_loop()
        self._whole: asyncio.Event | None = None
        self._started = threading.Event()
        self.port = 0
        self._thread = threading.Thread(target=self._run, name="link", daemon=True)

    @property
    def url(self) -> str:
        """Redis, by way of this link."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> Link:
        self._thread.start()
        assert self._started.wait(10)
        return self

    def cut(self) -> None:
        self._loop.call_soon_threadsafe(self._passes.clear)

    def mend(self) -> None:
        self._loop.call_soon_threadsafe(self._passes.set)

    def close(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)

    @property
    def _passes(self) -> asyncio.Event:
        assert self._whole is not None
        return self._whole

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._whole = asyncio.Event()
        self._whole.set()
        server = self._loop.run_until_complete(
            asyncio.start_server(self._serve, "127.0.0.1", 0, limit=_PIECE)
        )
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        self._loop.run_forever()
        server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def _serve(self, near: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        # not to end cancelled: asyncio's server would report each such end as an error
        with contextlib.suppress(asyncio.CancelledError):
            await self._relay(near, answer)

    async def _relay(self, near: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        await self._passes.wait()
        try:
            far, ask = await asyncio.open_unix_connection(str(self._target))
        except OSError:
            answer.transport.abort()  # refused, as by the server itself
            return
        pumps = [
            asyncio.ensure_future(one) for one in (self._pump(near, ask), self._pump(far, answer))
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            for writer in (ask, answer):
                writer.transport.abort()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(_PIECE):
                await self._passes.wait()
                sink.write(data)
                await sink.drain()
