"""Well-known networks as plain torch modules, to price and to compare with.

Each is written from its paper; torchvision and timm are not needed. Importing this package imports no torch.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from cosearch.errors import UnknownNameError, nearest
from cosearch.registry import load_object
from cosearch.workload import Workload

if TYPE_CHECKING:
    from torch import nn

    from cosearch.models.recorder import Unpriced

MODELS: Mapping[str, str] = MappingProxyType(
    {
        "resnet18": "cosearch.models.convnets:resnet18",
        "resnet20": "cosearch.models.convnets:resnet20",
        "resnet50": "cosearch.models.convnets:resnet50",
        "mobilenetv2": "cosearch.models.convnets:mobilenetv2",
        "vgg16": "cosearch.models.convnets:vgg16",
        "vit_s16": "cosearch.models.transformers:vit_s16",
        "vit_s16_block": "cosearch.models.transformers:vit_s16_block",
        "bert_base_block": "cosearch.models.transformers:bert_base_block",
    }
)

INPUT_SHAPES: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {
        "resnet18": (1, 3, 224, 224),
        "resnet20": (1, 3, 32, 32),
        "resnet50": (1, 3, 224, 224),
        "mobilenetv2": (1, 3, 224, 224),
        "vgg16": (1, 3, 224, 224),
        "vit_s16": (1, 3, 224, 224),
        "vit_s16_block": (1, 197, 384),
        "bert_base_block": (1, 128, 768),
    }
)
"""The input that the published figures of each network are for, batch included."""


def build(name: str) -> "nn.Module":
    """A network with freshly initialised weights.

    Raises: UnknownNameError with the nearest known name.
    """
    if name not in MODELS:
        raise UnknownNameError(f"unknown model {name!r}: {nearest(name, MODELS)}")
    module: nn.Module = load_object(MODELS[name])()
    return module


def workload(name: str, input_shape: tuple[int, ...] | None = None) -> Workload:
    """The layers of a network, at its published input shape unless another (batch included) is given.

    No weights are made. Raises: UnknownNameError with the nearest known name; HardwareError if the network cannot
    take an input of that shape.
    """
    return report(name, input_shape)[0]


def report(name: str, input_shape: tuple[int, ...] | None = None) -> "tuple[Workload, tuple[Unpriced, ...]]":
    """`workload`, with what the layers do not account for."""
    import torch

    from cosearch.tracing import trace_report

    with torch.device("meta"):
        module = build(name)
    return trace_report(module, input_shape or INPUT_SHAPES[name], name)
