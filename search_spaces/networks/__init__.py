"""Network spaces: name -> "module:factory". A new space is one file here and one line below."""

from typing import Any

from cosearch import registry

SPACES: dict[str, str] = {
    "butterfly": "search_spaces.networks.butterfly:space",
    "fbnet": "search_spaces.networks.fbnet:space",
    "hybrid": "search_spaces.networks.hybrid:space",
    "lowrank": "search_spaces.networks.lowrank:space",
    "mixedbits": "search_spaces.networks.mixedbits:space",
    "nasbench201": "search_spaces.networks.nasbench201:space",
    "pruning": "search_spaces.networks.pruning:space",
    "shiftadd": "search_spaces.networks.shiftadd:space",
}


def find(name: str) -> Any:
    """The factory ``(input_shape, num_classes) -> space`` of a registered name or a ``module:object``.

    Raises: UnknownNameError with the nearest name.
    """
    return registry.find("spaces", SPACES, name)
