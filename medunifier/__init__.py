"""MedUnifier (CVPR 2025): vision-language pre-training on radiographs and reports, with image generation.

    from medunifier import MedUnifierConfig, MedUnifierModel, MedUnifierProcessor

    model = MedUnifierModel.from_pretrained("models/full")

After `import medunifier`, `AutoConfig`, `AutoModel`, `AutoImageProcessor` and `AutoProcessor` of transformers load such
folders too. The import itself loads neither torch nor transformers, which take seconds: the names above load what they
need at the first access, and each Auto class gets MedUnifier's class at the moment when transformers loads it (an import
hook for the modules in `_AUTO_MODULES`; those already loaded are served at once).
"""

import importlib
import importlib.machinery
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from types import ModuleType
from typing import Any

# Defined by `__getattr__`; type checkers read them in __init__.pyi.
__all__ = ["MedUnifierConfig", "MedUnifierModel", "MedUnifierProcessor"]  # pyright: ignore[reportUnsupportedDunderAll]

_EXPORTS = {
    "MedUnifierConfig": "medunifier.huggingface.configuration_medunifier",
    "MedUnifierModel": "medunifier.huggingface.modeling_medunifier",
    "MedUnifierProcessor": "medunifier.huggingface.processing_medunifier",
}
# Module of an Auto class -> ours that registers MedUnifier's class with it when imported.
_AUTO_MODULES = {
    "transformers.models.auto.configuration_auto": "medunifier.huggingface.configuration_medunifier",
    "transformers.models.auto.modeling_auto": "medunifier.huggingface.auto_model",
    "transformers.models.auto.image_processing_auto": "medunifier.huggingface.image_processing_medunifier",
    "transformers.models.auto.processing_auto": "medunifier.huggingface.processing_medunifier",
}


def __getattr__(name: str) -> Any:
    """Import an exported class at its first access."""
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _RegisteringLoader(Loader):
    """Executes a module of an Auto class with its own loader, then registers MedUnifier's class."""

    def __init__(self, loader: Loader):
        self._loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        importlib.import_module(_AUTO_MODULES[module.__name__])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)  # source and resources, for tracebacks and inspect


class _AutoModules(MetaPathFinder):
    """Finds the modules of the Auto classes, with a loader that registers MedUnifier's classes."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in _AUTO_MODULES:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _RegisteringLoader(spec.loader)
        return spec


def _register() -> None:
    """Register now with the Auto classes that are loaded, and with the others when they are."""
    sys.meta_path.insert(0, _AutoModules())
    for auto_module, ours in _AUTO_MODULES.items():
        if auto_module in sys.modules:
            importlib.import_module(ours)


_register()
