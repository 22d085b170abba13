"""Every error that this project raises on purpose.

CyxWizError
├── InvalidJob          the job's configuration is wrong; names each field (also a ValueError)
├── JobConflict         the same job_id was submitted with another configuration
├── UnknownJob          no record of that job (never submitted, or its keys have expired)
├── KeyUnusable         a key cannot be used: no such file, not a key, others may read it
├── BadSignature        a job's signature is not its own, has expired, or was used before
│   └── UnknownKey      … is by a key that is not known here
├── Unproven            what is told of a job is not the word of a node that is trusted here
│   ├── NotSigned       … no node has signed it
│   ├── NodeUntrusted   … whoever signed it is no node that the trust root knows, or not any more
│   └── Forged          … it is not what the node has signed, or not where it belongs
├── UnknownResult       a stored result is of a version that this one does not read, or is none
├── RedisUnavailable    Redis cannot be reached; names the URL, without its password
├── WrongExec           a command beside a job cannot be asked for like that
├── ExecFailed          … was ended by its node, or nobody knows how it ended
│   └── ExecRefused     … is refused by the node
├── LeaseLost           this attempt no longer owns the job: whatever it writes is refused
│   └── BrokenRecord    … because what the record holds is none: it was not written by the project
├── JobFailed           what `AsyncResult.get()` raises for a job that failed
│   ├── JobRejected     … that no node may run
│   └── JobCancelled    … that was cancelled (for `follow(...).result()`)
├── ConfigError         the node's configuration is wrong: path, line, what is allowed
├── NodeConflict        another agent has the state directory, or a live node has the name
├── PlatformError       this host cannot do it at all (a node on Windows: use WSL2)
├── RuntimeUnavailable  the runtime (native, engine) cannot start attempts now
└── KeeperError         the keeper of an attempt cannot be reached or refused a command
"""

from __future__ import annotations


class CyxWizError(Exception):
    """The root: catch this to catch whatever the project raises on purpose."""


class InvalidJob(CyxWizError, ValueError):
    """The job's configuration is wrong. The message names each field and what is allowed."""


class JobConflict(CyxWizError):
    """The same ``job_id`` was submitted before, with another configuration."""


class UnknownJob(CyxWizError, LookupError):
    """No record of that job: never submitted to this Redis and prefix, or expired."""


class KeyUnusable(CyxWizError):
    """A key cannot be used. The message names the file, and never what is in it."""


class BadSignature(CyxWizError):
    """A job's signature is not its own, not good now, or was used before."""


class UnknownKey(BadSignature):
    """A job's signature is by a key that is not known here; elsewhere it may be."""


class Unproven(CyxWizError):
    """What is told of a job is not the word of a trusted node. Only who asks for proof meets it."""


class NotSigned(Unproven):
    """No node has signed it. The message has what was told, which anybody may have written."""


class NodeUntrusted(Unproven):
    """Who signed it is not in the trust root, is enrolled by a stranger, revoked, or too late."""


class Forged(Unproven):
    """It is not what the node signed: changed, another job's, another attempt's, out of order."""


class RedisUnavailable(CyxWizError, ConnectionError):
    """Redis cannot be reached. The message names the URL, with the password masked."""


class WrongExec(CyxWizError):
    """A command cannot be asked for like that; the message says what would be right."""


class ExecFailed(CyxWizError):
    """A command beside a job was ended, or nobody knows how it ended; the message says why."""


class ExecRefused(ExecFailed):
    """The node does not run the command; the message says why."""


class LeaseLost(CyxWizError):
    """This attempt no longer owns the job; nothing was written."""


class RecordGone(LeaseLost):
    """There is no record of the job any more: Redis has lost its data."""


class UnknownResult(CyxWizError):
    """What is stored as a result is of a version that this one does not read, or is no result."""


class BrokenRecord(LeaseLost):
    """A script cannot work with what a job's record holds: the project has not written it."""


class JobFailed(CyxWizError):
    """A job ended as failed.

    Args are ``(reason, message)``, both strings, so that Celery's JSON result can rebuild it.
    ``reason`` is a value of :class:`tasks.state.FailureReason`.
    """

    def __init__(self, reason: str = "internal", message: str = "") -> None:
        super().__init__(reason, message)
        self.reason = reason
        self.message = message

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}" if self.message else self.reason


class JobRejected(JobFailed):
    """A job that policy forbids: no node may run it as it stands."""


class JobCancelled(JobFailed):
    """A job that was cancelled."""


class ConfigError(CyxWizError, ValueError):
    """A node's configuration is wrong; the message has path, line and what is allowed."""


class NodeConflict(CyxWizError):
    """Another agent has this state directory, or a live node this name; the message says which."""


class PlatformError(CyxWizError):
    """This host cannot do it at all."""


class RuntimeUnavailable(CyxWizError):
    """The runtime cannot start an attempt now; another node, or this one later, may."""


class StartUncertain(RuntimeUnavailable):
    """It was not seen to start, and something of the attempt may live all the same."""


class KeeperError(CyxWizError):
    """The keeper of an attempt cannot be reached, or refused a command."""
