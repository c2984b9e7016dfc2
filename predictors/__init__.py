"""Learned predictors of latency, energy and accuracy. A new one is one file here and one line below."""

from typing import Any

from cosearch import registry

PREDICTORS: dict[str, str] = {
    "additive": "predictors.additive:AdditivePredictor",
}


def find(name: str) -> Any:
    """The class of a registered predictor or a ``module:object``.

    Raises: UnknownNameError with the nearest name.
    """
    return registry.find("predictors", PREDICTORS, name)
