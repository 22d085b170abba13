"""Which extra of the package brings a module that is not installed."""

from __future__ import annotations

from typing import Final

_BRING: Final = {
    "yaml": "cli",
    "rich": "cli",
    "cryptography": "sign",
    "fsspec": "fetch",
    "docker": "node",
    "prometheus_client": "node",
    "pynvml": "node",
}
"""Modules that a command may need, by the smallest extra that has them."""


def advice(error: BaseException) -> str | None:
    """What to install, where ``error`` says that a module of an extra is missing; else None."""
    if not isinstance(error, ModuleNotFoundError):
        return None
    module = str(error.name).partition(".")[0]
    extra = _BRING.get(module)
    if extra is None:
        return None
    return (
        f"{module} is not installed, and this command needs it: "
        f"pip install 'cyxwiz-worker[{extra}]'"
    )
