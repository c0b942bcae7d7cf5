"""PyTorch's compiler, torch._dynamo, is imported when something is to be compiled, and not before.

PyTorch's optimizers import it at their first call, only to tell it to leave them alone: some two seconds of every stage
that trains, though no stage compiles anything.
"""

import importlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

NAME = "torch._dynamo"


class _Waiting(ModuleType):
    """Stands in for the compiler: there is nothing to exempt functions from until it is there.

    Any other attribute imports the compiler, which takes this module's place.
    """

    @staticmethod
    def disable(fn: Callable | None = None, *_: Any, **__: Any) -> Callable:
        """Return the function, or as a decorator with arguments, a decorator that does."""
        return (lambda function: function) if fn is None else fn

    @staticmethod
    def graph_break(*_: Any, **__: Any) -> None:
        """Do nothing: there is no graph."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__path__":  # what Python asks of any module
            raise AttributeError(name)
        if sys.modules.get(NAME) is self:
            del sys.modules[NAME]
        return getattr(importlib.import_module(NAME), name)


def import_compiler_late() -> None:
    """Import torch._dynamo only when more is asked of it than to leave functions alone."""
    sys.modules.setdefault(NAME, _Waiting(NAME))
