"""PyTorch's compiler, torch._dynamo, is imported when something is to be compiled, and not before.

PyTorch's optimizers import it at their first call, only to tell it to leave them alone: some two seconds of every stage
that trains, though no stage compiles anything. (Where several processes train together, torch.distributed asks the
compiler for more, and it is imported after all.)
"""

import contextlib
import importlib
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import spec_from_loader
from types import ModuleType
from typing import Any

NAME = "torch._dynamo"


class _Waiting(ModuleType):
    """Stands in for the compiler: there is nothing to exempt functions from until it is there.

    Any other attribute imports the compiler, which takes this module's place. Functions that were exempted before may then
    be compiled with what calls them.
    """

    def __init__(self) -> None:
        super().__init__(NAME)
        self.__spec__ = ModuleSpec(NAME, None, is_package=True)

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
        compiler = importlib.import_module(NAME)
        return [] if name == "__path__" else getattr(compiler, name)  # for `_Parts`


class _Parts(MetaPathFinder, Loader):
    """Finds a part of the compiler, such as torch._dynamo.config, whose import has brought in the whole.

    Python asks the waiting module where its parts are, and goes on to load the part, though it has come with the whole: a
    second copy of it would be in nobody's use.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the specification of the part that is there, or of one that is to be loaded."""
        if not fullname.startswith(f"{NAME}.") or path is None or len(path) > 0:
            return None
        if fullname in sys.modules:
            return spec_from_loader(fullname, self)
        return PathFinder.find_spec(fullname, sys.modules[NAME].__path__)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the part itself."""
        module = sys.modules[spec.name]
        self.own = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Leave the part as it was: Python has given it the specification made here."""
        with contextlib.suppress(AttributeError):  # the compiler's config takes no such attribute
            module.__spec__ = self.own


def import_compiler_late() -> None:
    """Import torch._dynamo only when more is asked of it than to leave functions alone."""
    if NAME not in sys.modules:
        sys.modules[NAME] = _Waiting()
        sys.meta_path.insert(0, _Parts())
