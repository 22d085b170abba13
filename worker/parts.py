"""What every attempt in a slot uses."""

from __future__ import annotations

from dataclasses import dataclass

from tasks.record import Records
from tasks.settings import Settings
from worker.config import NodeConfig
from worker.crew import Crew
from worker.devices.pool import DevicePool
from worker.limits import HostSize
from worker.node.paths import NodePaths
from worker.orders import Orders
from worker.runtimes.base import Runtime


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Which slot of which node this is."""

    node: str
    slot: str
    host: HostSize


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeParts:
    """What every attempt in a slot uses."""

    records: Records
    settings: Settings
    config: NodeConfig
    paths: NodePaths
    pool: DevicePool
    runtime: Runtime
    orders: Orders
    crew: Crew
    place: Place
