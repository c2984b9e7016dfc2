"""Benchmark tables: what a network costs on a device and how accurate it is, without hardware, training or download."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hwbench_data.library import available, load
    from hwbench_data.table import Table

_LAZY = {"available": "library", "load": "library", "Table": "table"}

__all__ = ["Table", "available", "load"]


def __getattr__(name: str) -> Any:
    # the command line lists its commands without loading numpy
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"hwbench_data.{_LAZY[name]}"), name)
