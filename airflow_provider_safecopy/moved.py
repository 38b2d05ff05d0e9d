"""Former names of modules. Each works for one version more, and warns."""

from __future__ import annotations

import sys
import warnings
from importlib import import_module
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from types import ModuleType

_PACKAGE = __name__.rpartition(".")[0]

# The former name and the new one, below the package.
MOVED: dict[str, str] = {}


def find_spec(name: str) -> ModuleSpec | None:
    """Return the spec of a module that has moved, None where `name` is no former name."""
    new = MOVED.get(name.removeprefix(f"{_PACKAGE}."))
    return None if new is None else ModuleSpec(name, _MovedLoader(f"{_PACKAGE}.{new}"))


class _MovedLoader(Loader):
    """Load the module at its new place, and let the former name mean the same module."""

    def __init__(self, new: str) -> None:
        self._new = new

    def exec_module(self, module: ModuleType) -> None:
        """Import the new module and warn. Python takes what stands in `sys.modules` afterwards."""
        old = module.__name__
        sys.modules[old] = import_module(self._new)
        message = f"{old} has moved; import from {_PACKAGE} what it exports, else from {self._new}"
        warnings.warn(message, DeprecationWarning, stacklevel=2)
