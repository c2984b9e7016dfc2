"""cosearch: find a neural network and the accelerator that runs it, together.

`Layer` and `Workload` are here; `run`, `resume`, `load`, `load_network` and `export_design` are loaded on first use.
"""

from typing import TYPE_CHECKING, Any

from cosearch.errors import CosearchError
from cosearch.workload import Layer, Workload

if TYPE_CHECKING:
    from cosearch.engine import export_design, load, load_network, resume, run

__version__ = "0.1.0"
__all__ = [
    "CosearchError",
    "Layer",
    "Workload",
    "__version__",
    "export_design",
    "load",
    "load_network",
    "resume",
    "run",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from cosearch import engine

        return getattr(engine, name)
    raise AttributeError(f"module 'cosearch' has no attribute {name!r}")
