"""How ``cyxwiz`` ends: one exit code for each kind of end, and the line that says what failed."""

from __future__ import annotations

import functools
import os
import sys
import traceback
from collections.abc import Callable
from enum import IntEnum
from typing import Final, NoReturn, ParamSpec

import click

from tasks import errors
from tasks.control import NotRunning
from tasks.outputs import ArtifactUnavailable, NoArtifacts
from worker.cli.extras import advice

P = ParamSpec("P")


class ExitCode(IntEnum):
    """The exit codes. They are a promise to scripts: none changes its meaning."""

    OK = 0
    FAILED = 1
    """The followed job failed; for `doctor`: no node can run jobs here; for `demo`: it failed."""
    USAGE = 2
    """The command line is wrong."""
    INVALID = 3
    """The job, the configuration or a key is wrong; for `keys new`: the file is there. Or a package
    is not installed."""
    REDIS = 4
    """Redis cannot be reached."""
    UNKNOWN_JOB = 5
    CONFLICT = 6
    """The id belongs to another job, or another node has the name or the state directory; for
    `get`: another file has the name."""
    CANCELLED = 7
    """The followed job was cancelled."""
    REJECTED = 8
    """The followed job was rejected; for `keys verify`: it would be."""
    PLATFORM = 9
    """This host cannot do it at all."""
    STATE = 10
    """The job's state does not allow it: it has ended, nobody runs it now, it left no files."""
    UNAVAILABLE = 11
    """A file that a job left cannot be fetched, or is not what its node kept."""
    UNPROVEN = 12
    """`--trust`: what is told of the job is not the signed word of a trusted node."""
    ENDED = 124
    """`exec`: the command was ended, or nobody knows how it ended."""
    REFUSED = 125
    """`exec`: the job's node does not run the command."""
    INTERNAL = 70
    """A fault of this program."""
    INTERRUPTED = 130
    """Ctrl-C; a followed job goes on."""
    BROKEN_PIPE = 141
    """Whoever read the output has gone."""
    TERMINATED = 143
    """SIGTERM; what the command started is ended and cleared away."""


class WrongState(errors.CyxWizError):
    """The job's state does not allow what was asked; the message says what would."""


class InTheWay(errors.CyxWizError):
    """A file that is there would have to be replaced."""


class CommandFailed(errors.CyxWizError):
    """The command did not reach its end; the message says why."""


class Terminated(KeyboardInterrupt):
    """SIGTERM came, in a command that has something to clear away first."""


_CODES: Final[tuple[tuple[type[Exception], ExitCode], ...]] = (
    (errors.InvalidJob, ExitCode.INVALID),
    (errors.ExecRefused, ExitCode.REFUSED),
    (errors.ExecFailed, ExitCode.ENDED),
    (errors.WrongExec, ExitCode.USAGE),
    (errors.ConfigError, ExitCode.INVALID),
    (errors.KeyUnusable, ExitCode.INVALID),
    (errors.BadSignature, ExitCode.REJECTED),
    (errors.Unproven, ExitCode.UNPROVEN),
    (errors.RedisUnavailable, ExitCode.REDIS),
    (errors.UnknownJob, ExitCode.UNKNOWN_JOB),
    (errors.JobConflict, ExitCode.CONFLICT),
    (errors.NodeConflict, ExitCode.CONFLICT),
    (errors.JobCancelled, ExitCode.CANCELLED),
    (errors.JobRejected, ExitCode.REJECTED),
    (errors.JobFailed, ExitCode.FAILED),
    (errors.PlatformError, ExitCode.PLATFORM),
    (errors.RuntimeUnavailable, ExitCode.PLATFORM),
    (NotRunning, ExitCode.STATE),
    (WrongState, ExitCode.STATE),
    (NoArtifacts, ExitCode.STATE),
    (InTheWay, ExitCode.CONFLICT),
    (ArtifactUnavailable, ExitCode.UNAVAILABLE),
    (CommandFailed, ExitCode.FAILED),
)


def exit_code(error: BaseException) -> ExitCode:
    """The exit code for what a command raised."""
    if _lost_redis(error):
        return ExitCode.REDIS
    if advice(error) is not None:
        return ExitCode.INVALID
    return next((code for kind, code in _CODES if isinstance(error, kind)), ExitCode.INTERNAL)


def told(error: BaseException) -> str:
    """What is said about ``error``: what failed, and what to do next."""
    if isinstance(error, errors.CyxWizError):
        return str(error)
    if _lost_redis(error):
        return f"Redis went away: {error}. Start it again, or see `cyxwiz doctor`."
    if (missing := advice(error)) is not None:
        return missing
    return (
        f"internal error: {type(error).__name__}: {error}. "
        "Run it again as `cyxwiz --debug …` for the traceback, and report it."
    )


def guarded(command: Callable[P, None]) -> Callable[P, None]:
    """A command that ends with a clear line and its exit code, and never with a traceback."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except (click.ClickException, click.exceptions.Exit):
            raise  # click's own
        except BrokenPipeError:  # click would end with 1
            end_of_pipe()
        except Terminated:
            click.echo("terminated", err=True)
            sys.exit(ExitCode.TERMINATED)
        except (KeyboardInterrupt, click.Abort):
            click.echo("interrupted", err=True)
            sys.exit(ExitCode.INTERRUPTED)
        except Exception as error:
            if _debug():
                traceback.print_exc()
            click.echo(f"cyxwiz: {told(error)}", err=True)
            sys.exit(exit_code(error))

    return run


def end_of_pipe() -> NoReturn:
    """Whoever read stdout has gone: end at once, and quietly."""
    # or the interpreter tries to flush once more at its end, and complains
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(ExitCode.BROKEN_PIPE)


def _debug() -> bool:
    context = click.get_current_context(silent=True)
    return bool(context and getattr(context.find_root().obj, "debug", False))


def _lost_redis(error: BaseException) -> bool:
    """Whether a client that is loaded by now says that Redis is away. Loads none."""
    kinds = [
        getattr(sys.modules.get(module), name, None)
        for module, names in {
            "redis.exceptions": ("ConnectionError", "TimeoutError"),
            "kombu.exceptions": ("OperationalError",),
        }.items()
        for name in names
    ]
    return isinstance(error, tuple(kind for kind in kinds if kind is not None))
