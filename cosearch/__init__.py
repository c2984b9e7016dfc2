"""cosearch: find a neural network and the accelerator that runs it, together.

`Layer` and `Workload` are here; `run`, `resume`, `load`, `load_network`, `export_design`, `write_report` and `compare`
are loaded on first use.
"""

from typing import TYPE_CHECKING, Any

from cosearch.errors import CosearchError
from cosearch.workload import Layer, Workload

if TYPE_CHECKING:
    from cosearch.engine import export_design, load, load_network, resume, run
    from cosearch.report.writing import compare, write_report

__version__ = "0.1.0"
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


def __getattr__(name: str) -> Any:
    if name in ("compare", "write_report"):
        from cosearch.report import writing

        return getattr(writing, name)
    if name in __all__:
        from cosearch import engine

        return getattr(engine, name)
    raise AttributeError(f"module 'cosearch' has no attribute {name!r}")
