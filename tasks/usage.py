"""Who used how much: slot-seconds and GPU-seconds by user and day.

They are counted with each renewal of a lease and at the end of each attempt, by Redis's clock: a
job that runs over midnight counts to both days, one that runs now counts up to its last renewal,
and a node that vanished with a job costs its user nothing beyond that. What is counted is the time
that a slot was held, and the GPUs of the slot times that.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Final

import redis

from tasks.keys import Keys

_EPOCH: Final = date(1970, 1, 1).toordinal()
MOST_DAYS: Final = 400
"""As long as Redis keeps them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Used:
    """What one user used on one day (UTC)."""

    day: date
    user_id: str
    """'' for jobs that name none."""
    slot_seconds: float
    gpu_seconds: float


def used(
    client: redis.Redis, keys: Keys, first: date, last: date, *, user_id: str | None = None
) -> Iterator[Used]:
    """What was used from ``first`` to ``last``, both included: by day, then by user.

    ``user_id``: this user's alone. Raises ValueError, redis.RedisError.
    """
    for number in _days(first, last):
        users = [user_id] if user_id is not None else None
        yield from page_of_day(client, keys, number, users=users)


def page_of_day(
    client: redis.Redis,
    keys: Keys,
    day: int,
    *,
    users: list[str] | None = None,
    after: str | None = None,
    limit: int = 500,
) -> Iterator[Used]:
    """A day's rows, read ``limit`` at a time. ``day``: as in `Keys.usage`."""
    while True:
        if users is None:
            low = "-" if after is None else f"({after}"
            found: Any = client.zrangebylex(keys.usage_users(day), low, "+", 0, limit)
        else:
            found = users
        names = [f"{kind}:{user}" for user in found for kind in ("slot", "gpu")]
        values: Any = client.hmget(keys.usage(day), names) if names else []
        for number, user in enumerate(found):
            slot, gpu = values[number * 2 : number * 2 + 2]
            if slot is not None:
                yield Used(
                    day=date.fromordinal(day + _EPOCH),
                    user_id=user,
                    slot_seconds=int(slot) / 1000,
                    gpu_seconds=int(gpu or 0) / 1000,
                )
        if users is not None or len(found) < limit:
            return
        after = found[-1]


def day_number(day: date) -> int:
    """As in `Keys.usage`."""
    return day.toordinal() - _EPOCH


def today(client: redis.Redis) -> date:
    """By Redis's clock."""
    seconds: Any = client.time()
    return datetime.fromtimestamp(seconds[0], UTC).date()


def _days(first: date, last: date) -> range:
    days = range(day_number(first), day_number(last) + 1)
    if not days or len(days) > MOST_DAYS:
        raise ValueError(
            f"from {first} to {last}: 1 to {MOST_DAYS} days are right, the first one first"
        )
    return days
