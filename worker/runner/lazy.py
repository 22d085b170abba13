"""Packages that are loaded when they are first used.

`np` and `torch` can be imported from here by every module, and cost nothing until then. A package
that is not there is a `EnvironmentLacks` that says what to install.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from worker.runner.faults import EnvironmentLacks

__all__ = ["Array", "installed", "need", "np", "torch"]


def need(module: str, *, package: str = "", why: str = "the built-in runner") -> Any:
    """Import ``module``. Raises EnvironmentLacks: ``why`` says what needs ``package``."""
    package = package or module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        name = package if (error.name or "") in module else (error.name or package)
        raise EnvironmentLacks(
            f"{why} needs {name}, and {sys.executable} does not have it; "
            f"pip install {name}, or choose an image that has it"
        ) from None
    except (ImportError, OSError) as error:  # it is there, and a library of it is not
        raise EnvironmentLacks(f"{why} needs {package}, which cannot be loaded: {error}") from None


def installed(module: str) -> bool:
    """Whether ``module`` could be imported; it is not."""
    return importlib.util.find_spec(module) is not None


class _Lazy(ModuleType):
    def __getattr__(self, name: str) -> Any:
        value = getattr(need(self.__name__), name)
        setattr(self, name, value)
        return value


if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

    Array = npt.NDArray[Any]
else:
    Array = Any
    np = _Lazy("numpy")
    torch = _Lazy("torch")
