"""Learned predictors of latency, energy and accuracy. A new one is one file here and one line below."""

from typing import Any

from cosearch import registry
from predictors.encoding import features as features

PREDICTORS: dict[str, str] = {
    "adapted": "predictors.transfer:Adapted",
    "additive": "predictors.additive:Additive",
    "arch": "predictors.arch:ArchPredictor",
    "blend": "predictors.blend:Blend",
    "boosting": "predictors.trees:Boosting",
    "forest": "predictors.trees:RandomForest",
    "gp": "predictors.gp:GaussianProcess",
    "graph": "predictors.neural:GraphNetwork",
    "linear": "predictors.linear:Linear",
    "mlp": "predictors.neural:NeuralEnsemble",
    "pool": "predictors.pool:DevicePool",
    "pooled": "predictors.pool:PooledPredictor",
    "relative": "predictors.relative:Relative",
    "ridge": "predictors.linear:Ridge",
    "robust": "predictors.robust:Robust",
}


def find(name: str) -> Any:
    """The class of a registered predictor or a ``module:object``.

    Raises: UnknownNameError with the nearest name.
    """
    return registry.find("predictors", PREDICTORS, name)
