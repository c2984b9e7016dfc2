"""cosearch: find a neural network and the accelerator that runs it, together.

`Layer` and `Workload` are here; `run`, `resume`, `load`, `load_network`, `export_design`, `write_report` and `compare`
are loaded on first use.
"""

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


def __getattr__(name: str) -> Any:
    home: Any
    if name in ("resume", "run"):
        from cosearch import engine as home
    elif name in ("load", "load_network"):
        from cosearch import loading as home
    elif name == "export_design":
        from cosearch.export import writing as home
    elif name in ("compare", "write_report"):
        from cosearch.report import writing as home
    else:
        raise AttributeError(f"module 'cosearch' has no attribute {name!r}")
    return getattr(home, name)
