"""Follows the demo's job, with an eye on the node that runs it."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from tasks.settings import Settings
from worker.cli.demo_node import DemoNode
from worker.cli.exits import ExitCode
from worker.cli.following import follow_all
from worker.cli.views import View


def follow_on(
    job_id: str, settings: Settings, view: View, node: DemoNode, timeout: float
) -> ExitCode:
    """Show the job to its end; how it ended.

    Raises NodeFailed: the node ended, or the job did not within ``timeout`` seconds.
    """
    return asyncio.run(_follow(job_id, settings, view, node, timeout))


async def _follow(
    job_id: str, settings: Settings, view: View, node: DemoNode, timeout: float
) -> ExitCode:
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[Any] = loop.create_future()
    process = os.pidfd_open(node.process.pid)
    # called until the reader is removed: the process stays readable
    loop.add_reader(process, lambda: None if ended.done() else ended.set_result(None))
    following: asyncio.Future[Any] = asyncio.ensure_future(follow_all([job_id], settings, view))
    try:
        await asyncio.wait([ended, following], timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if following.done():
            code: ExitCode = following.result()
            return code
        if ended.done():
            raise node.failed("the node ended while the job ran")
        raise node.failed(f"the job did not end within {timeout:.0f} s")
    finally:
        loop.remove_reader(process)
        os.close(process)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
