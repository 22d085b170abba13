"""What a Redis that is set as it is can lose, said when a node starts."""

from __future__ import annotations

from typing import Any

import redis

_UNKNOWN = (
    "this Redis does not show its settings (CONFIG is not allowed): see to it that appendonly is "
    "yes and maxmemory-policy is noeviction"
)


def advice(client: redis.Redis) -> list[str]:
    """One sentence for each setting by which jobs can be lost; [] where none can.

    Raises redis.ConnectionError, redis.TimeoutError.
    """
    try:
        found: dict[str, Any] = client.config_get("*")  # type: ignore[assignment]  # a sync client
    except redis.ResponseError:
        return [_UNKNOWN]
    said = []
    if found.get("appendonly") != "yes":
        saves = found.get("save")
        kept = f"all but what came since its last snapshot (save {saves})" if saves else "nothing"
        said.append(
            f"appendonly is no: of queued jobs and results, {kept} outlives a restart of Redis; "
            "running jobs go on and are recorded again. Set appendonly yes"
        )
    elif found.get("appendfsync") == "no":
        said.append(
            "appendfsync is no: if its host loses power, Redis loses what the kernel had not "
            "written, half a minute of submissions and results. Set appendfsync everysec or always"
        )
    policy = found.get("maxmemory-policy", "noeviction")
    if found.get("maxmemory", "0") != "0" and policy != "noeviction":
        said.append(
            f"maxmemory-policy is {policy}: when its memory is full, Redis deletes records and "
            "queues of jobs. Set maxmemory-policy noeviction"
        )
    return said
