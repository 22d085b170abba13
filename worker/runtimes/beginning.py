"""The directories and the lock of an attempt while its keeper is started."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from tasks.errors import KeeperError, RuntimeUnavailable, StartUncertain
from worker.keeper import lock, secret_files
from worker.keeper.settle import Settlement, end_keeper, remove_tree, settle
from worker.plan import LaunchPlan


def check_place(plan: LaunchPlan, attempts: Path) -> None:
    """Raises RuntimeUnavailable: nobody would find the attempt again."""
    if plan.state.parent != attempts:
        raise RuntimeUnavailable(
            f"{plan.attempt}: the plan's state is {plan.state}, which recover() would not "
            f"find: it must be a directory in {attempts}"
        )


@contextlib.contextmanager
def beginning(
    plan: LaunchPlan, directories: Sequence[Path], owner: tuple[int, int]
) -> Iterator[int]:
    """``directories`` are there, and so are the secrets; yields the lock, for the keeper.

    Output and scratch are new: an attempt of the same name, whose record somebody has set back or
    Redis has lost, may have left some. After an error nothing that was made here is left.

    ``owner``: uid and gid of the job's user. Raises OSError; RuntimeUnavailable: another keeper has
    the attempt; StartUncertain: what may have started could not be ended.
    """
    made: list[Path] = []
    guard = -1
    try:
        for directory in directories:
            if _make(directory):
                made.append(directory)
        guard = _guard(plan)
        for directory in [one for one in directories if one not in made]:
            if directory in (plan.output, plan.scratch):
                _make_anew(directory)
                made.append(directory)
            else:
                _make(directory)  # whoever had it before may just have removed it: it was empty
        if plan.secrets is not None:
            secret_files.write(plan.state, plan.secrets.place, plan.secrets.values, owner)
        yield guard
    except (OSError, KeeperError, RuntimeUnavailable) as error:
        if guard >= 0:
            os.close(guard)
            if not _nothing_lives(plan.state):
                raise StartUncertain(
                    f"{error}; what may have started could not be ended"
                ) from error
        for directory in made:
            remove_tree(directory)
        raise
    os.close(guard)


def _nothing_lives(state: Path) -> bool:
    """Whether nothing of the attempt is left. A keeper that came to life all the same, and did not
    say so in time, is ended: the job is given to another attempt now."""
    outcome = settle(state).outcome
    if outcome is Settlement.ALIVE and end_keeper(state) is not None:
        outcome = settle(state).outcome
    return outcome is Settlement.SETTLED


def _guard(plan: LaunchPlan) -> int:
    guard = lock.take(plan.state)
    if guard is None:
        raise RuntimeUnavailable(f"another keeper looks after {plan.state}")
    return guard


def _make_anew(directory: Path) -> None:
    """Raises OSError: what is there cannot be removed."""
    remove_tree(directory)
    if not _make(directory):
        raise FileExistsError(f"{directory}: what was left there cannot be removed")


def _make(directory: Path) -> bool:
    """Make a directory that is this user's alone; False: there is one. Raises OSError."""
    try:
        os.mkdir(directory, 0o700)  # noqa: PTH102 - four for each job
    except FileNotFoundError:
        directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return _make(directory)
    except FileExistsError:
        if directory.is_dir():
            return False
        raise
    return True
