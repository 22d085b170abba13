"""``cyxwiz-job-executor``: trains the job that ``--job-config=`` or the environment names.

It always ends with a `complete` line, and with one of the statuses of `worker.runner.faults.Exit`.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence

from worker.runner.faults import Exit, Fault, Terminated
from worker.runner.jobspec import decode, encoded_config, places
from worker.runner.protocol import Reporter, log, own_stdout
from worker.runner.session import run_job
from worker.runner.signals import Signals


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job; the exit status."""
    signals = Signals()
    signals.listen()
    reporter = Reporter(own_stdout(), os.environ.get("CYXWIZ_JOB_ID", ""))

    def work() -> None:
        given = sys.argv[1:] if arguments is None else arguments
        config = decode(encoded_config(given, os.environ))
        reporter.job_id = str(config.get("job_id") or reporter.job_id)
        run_job(config, places(os.environ), reporter, signals)

    return int(_settled(work, reporter, signals))


def _settled(work: Callable[[], None], reporter: Reporter, signals: Signals) -> Exit:
    """Do the work, and say how it ended."""
    try:
        work()
    except BaseException as error:
        signals.ignore()
        status, message = _judged(error)
        log(f"error: {message}")
        reporter.failed(message)
        return status
    return Exit.DONE


def _judged(error: BaseException) -> tuple[Exit, str]:
    """Exit status and message. What the node looks for in the log is printed here."""
    if isinstance(error, Terminated):
        return Exit.TERMINATED, str(error)
    if isinstance(error, Fault):
        return error.exit, str(error)
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        traceback.print_exception(error, file=sys.stderr)
        log(f"MemoryError: {error}")
        return Exit.MEMORY, f"memory was not enough: {str(error) or 'no more could be had'}"
    if type(error).__name__ == "OutOfMemoryError":  # PyTorch's, of a GPU
        traceback.print_exception(error, file=sys.stderr)
        return Exit.MEMORY, f"GPU memory was not enough: {error}"
    if isinstance(error, OSError) and error.filename is not None:
        return Exit.INTERNAL, f"{error.filename}: {error.strerror}"
    traceback.print_exception(error, file=sys.stderr)
    return Exit.INTERNAL, f"internal error: {type(error).__name__}: {error}"


if __name__ == "__main__":
    sys.exit(main())
