"""What the checkpoints of a job are bound to: the job as it was submitted, and who signed it.

A job's id binds nothing. Whoever may write its record can put another configuration there between
two attempts, and the one that was signed again after that: neither may find what the other left.
So wherever checkpoints are kept, this is in the name of their place, which no job can write to.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Final

_NAME: Final = re.compile(r"[0-9a-f]{32}")

UNBOUND: Final = ""
"""The name for what versions before bindings left."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Binding:
    """Of one attempt of a job on one node."""

    name: str
    signed: bool
    """By a key that this node trusts; for any other it is as if nobody had signed."""

    @classmethod
    def of(cls, digest: str, signer: str) -> Binding:
        """Another one if anything of the job is another, or the signer is. ``digest``:
        `JobConfig.digest`. ``signer``: the id of the key, if this node trusts it; else ''."""
        said = f"{signer}\n{digest}"
        return cls(name=hashlib.sha256(said.encode()).hexdigest()[:32], signed=bool(signer))

    def takes(self, name: str) -> bool:
        """Whether what is bound so is the attempt's to go on from. What is not bound may be
        anybody's: a signed job has no use for it."""
        return name == self.name or (name == UNBOUND and not self.signed)


def is_binding(name: object) -> bool:
    """Whether a binding may be called so: a part of the name of a file."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None
