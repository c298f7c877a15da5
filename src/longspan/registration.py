"""Our models in transformers' registry, as soon as there is one.

Transformers has no entry point for others' models: they register when they are imported. To import
it here would cost every `import longspan`, `train.py --help` too, the seconds that it and torch
take. So where its registry is not loaded yet, an import hook registers right after it is. The hook
answers for that one module alone, and leaves the finding and the loading of it to Python.
"""

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

REGISTRY = "transformers.models.auto.configuration_auto"


def register_with_transformers() -> None:
    """Register now if transformers' registry is loaded, else when it is. Twice does no harm."""
    if REGISTRY in sys.modules:
        _register()
    elif not any(isinstance(finder, RegistryFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, RegistryFinder())


class RegistryFinder(MetaPathFinder):
    """Finds transformers' registry as Python would, and registers after it is loaded."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != REGISTRY:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            _register_after(spec.loader)
        return spec


def _register_after(loader: Loader) -> None:
    execute = loader.exec_module

    def execute_and_register(module: ModuleType) -> None:
        execute(module)
        _register()

    # the loader stays what it is, so that source and tracebacks are found as ever
    loader.exec_module = execute_and_register


def _register() -> None:
    import longspan.pretrained.configuration  # noqa: F401  it registers itself
