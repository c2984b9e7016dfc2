"""cosearch: find a neural network and the accelerator that runs it, together.

`Layer` and `Workload` are here; `run`, `resume`, `load`, `load_network`, `export_design`, `write_report` and `compare`
are loaded on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cosearch.errors import CosearchError
from cosearch.version import __version__
from cosearch.workload import Layer, Workload

if TYPE_CHECKING:
    from cosearch.engine import resume, run
    from cosearch.export.writing import export_design
    from cosearch.loading import load, load_network
    from cosearch.report.writing import compare, write_report

__all__ = [
    "CosearchError",
    "Layer",
    "Workload",
    "__version__",
    "compare",
    "export_design",
    "load",
    "load_network",
    "resume",
    "run",
    "write_report",
]


_HOMES = {
    "compare": "cosearch.report.writing",
    "export_design": "cosearch.export.writing",
    "load": "cosearch.loading",
    "load_network": "cosearch.loading",
    "resume": "cosearch.engine",
    "run": "cosearch.engine",
    "write_report": "cosearch.report.writing",
}
"""Where what is loaded on first use is defined."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'cosearch' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
