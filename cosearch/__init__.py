"""cosearch: find a neural network and the accelerator that runs it, together."""

from cosearch.errors import CosearchError
from cosearch.workload import Layer, Workload

__version__ = "0.1.0"
__all__ = ["CosearchError", "Layer", "Workload", "__version__"]
