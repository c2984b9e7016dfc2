"""What the API reference is made of: every module and every public name says what it is."""

import importlib
import importlib.util
import inspect
from pathlib import Path

ROOT = Path(__file__).parents[1]


def reference():
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs/reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_module_and_every_exported_name_has_a_docstring():
    for module in reference().modules():
        assert module.__doc__, module.__name__
        for name in getattr(module, "__all__", ()):
            value = getattr(module, name)
            if inspect.isclass(value) or inspect.isfunction(value):
                written = inspect.getdoc(value) or ""
                # a dataclass without a docstring gets its signature as one
                assert written, f"{module.__name__}.{name}"
                assert not written.startswith(f"{value.__name__}("), f"{module.__name__}.{name}"


def test_lazily_loaded_names_exist():
    for name in ("cosearch", "cosearch.hardware"):
        module = importlib.import_module(name)
        for exported in module.__all__:
            assert getattr(module, exported) is not None
