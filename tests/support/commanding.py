"""Keys for nodes that let operators run commands beside jobs, and a command as such a one runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import yaml

from tasks.executing import Output, execute
from tasks.publishing import JobCelery
from tasks.trust import SigningKey, sign

SECRET = "a-secret-of-the-tests"
"""Its name is ``token``."""


@dataclass(frozen=True)
class Operators:
    """``alice``, whose jobs are trusted, and ``ops``, who may run commands beside them."""

    alice: SigningKey
    ops: SigningKey
    key_file: Path
    """The private half of ``ops``."""
    sections: Mapping[str, Mapping[str, Any]]
    """Of server-node.yaml."""

    @classmethod
    def made(cls, directory: Path) -> Self:
        scopes = {"alice": {"native": True, "secrets": ["*"]}, "ops": {"exec": True}}
        keys = {name: SigningKey.generate() for name in scopes}
        files = []
        for name, scope in scopes.items():
            file = directory / f"{name}.pub"
            about = {"name": name, "public_key": str(keys[name].public), "scope": scope}
            file.write_text(yaml.safe_dump(about))
            file.chmod(0o644)
            files.append(str(file))
        private = directory / "ops.key"
        keys["ops"].save(private)
        secrets = directory / "secrets.yaml"
        secrets.write_text(f"token: {SECRET}\n")
        secrets.chmod(0o600)
        sections = {"trust": {"keys": files, "allow_exec": True, "secrets": str(secrets)}}
        return cls(keys["alice"], keys["ops"], private, sections)

    def signed(self, **job: Any) -> dict[str, Any]:
        """A job of alice's."""
        return sign(job, self.alice).to_wire()

    def run(
        self, app: JobCelery, job_id: str, *argv: str, key: SigningKey | None = None, **how: Any
    ) -> tuple[int, str, str]:
        """Exit code, stdout, stderr. Raises as `execute` does."""
        said, code = {"stdout": b"", "stderr": b""}, -1
        for one in execute(job_id, argv, key=key or self.ops, app=app, **how):
            if isinstance(one, Output):
                said[one.stream] += one.data
            else:
                code = one
        return code, said["stdout"].decode(), said["stderr"].decode()
