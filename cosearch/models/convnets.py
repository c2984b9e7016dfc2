"""Convolutional networks.

ResNet: He et al., CVPR 2016. MobileNetV2: Sandler et al., CVPR 2018. VGG: Simonyan and Zisserman, ICLR 2015.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


def convolution(
    inputs: int,
    outputs: int,
    kernel: int = 1,
    stride: int = 1,
    groups: int = 1,
    activation: type[nn.Module] | None = None,
) -> nn.Sequential:
    """Convolution of an odd kernel ("same" padding), batch norm and, if given, an activation."""
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, *([activation(inplace=True)] if activation else []))


class Subsample(nn.Module):
    """The shortcut without weights of the CIFAR ResNets: every second pixel, new channels zero."""

    def __init__(self, extra_channels: int) -> None:
        super().__init__()
        self.extra = extra_channels

    def forward(self, x: Tensor) -> Tensor:
        """x: N, C, H, W. Returns: N, C + extra, H / 2, W / 2."""
        return functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.extra // 2, self.extra - self.extra // 2))


class Residual(nn.Module):
    """relu(body(x) + shortcut(x))."""

    def __init__(self, body: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


def _basic(inputs: int, width: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        convolution(inputs, width, 3, stride, activation=nn.ReLU),
        convolution(width, width, 3),
    )


def _bottleneck(inputs: int, width: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        convolution(inputs, width, activation=nn.ReLU),
        convolution(width, width, 3, stride, activation=nn.ReLU),
        convolution(width, 4 * width),
    )


def _imagenet_resnet(repeats: Sequence[int], bottleneck: bool) -> nn.Sequential:
    """Stages of 64, 128, 256 and 512 channels; the stride of a bottleneck is on its 3x3 convolution."""
    block, growth = (_bottleneck, 4) if bottleneck else (_basic, 1)
    layers: list[nn.Module] = [convolution(3, 64, 7, 2, activation=nn.ReLU), nn.MaxPool2d(3, 2, 1)]
    inputs = 64
    for stage, repeat in enumerate(repeats):
        width = 64 << stage
        for i in range(repeat):
            stride = 2 if stage > 0 and i == 0 else 1
            outputs = growth * width
            shortcut = (
                nn.Identity() if inputs == outputs and stride == 1 else convolution(inputs, outputs, stride=stride)
            )
            layers.append(Residual(block(inputs, width, stride), shortcut))
            inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 1000))


def resnet18() -> nn.Sequential:
    """ResNet-18 for 224x224 images and 1000 classes: 1.814 GMAC, 11.69 M parameters."""
    return _imagenet_resnet((2, 2, 2, 2), bottleneck=False)


def resnet50() -> nn.Sequential:
    """ResNet-50 (stride on the 3x3 convolutions): 4.089 GMAC, 25.56 M parameters."""
    return _imagenet_resnet((3, 4, 6, 3), bottleneck=True)


def resnet20() -> nn.Sequential:
    """ResNet-20 for 32x32 images and 10 classes: 40.6 MMAC, 0.27 M parameters."""
    layers: list[nn.Module] = [convolution(3, 16, 3, activation=nn.ReLU)]
    inputs = 16
    for width in (16, 32, 64):
        for _ in range(3):
            narrower = inputs < width
            shortcut = Subsample(width - inputs) if narrower else nn.Identity()
            layers.append(Residual(_basic(inputs, width, 2 if narrower else 1), shortcut))
            inputs = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 10))


class InvertedResidual(nn.Module):
    """Expand, depthwise 3x3, project; the input is added where the shape allows it."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = inputs * expansion
        expand = [convolution(inputs, width, activation=nn.ReLU6)] if expansion > 1 else []
        self.body = nn.Sequential(
            *expand,
            convolution(width, width, 3, stride, groups=width, activation=nn.ReLU6),
            convolution(width, outputs),
        )
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.adds else self.body(x)


MOBILENETV2 = (
    # expansion, channels, repeats, stride of the first
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def mobilenetv2() -> nn.Sequential:
    """MobileNetV2 of width 1.0: 0.300 GMAC, 3.50 M parameters."""
    layers: list[nn.Module] = [convolution(3, 32, 3, 2, activation=nn.ReLU6)]
    inputs = 32
    for expansion, outputs, repeats, stride in MOBILENETV2:
        for i in range(repeats):
            layers.append(InvertedResidual(inputs, outputs, stride if i == 0 else 1, expansion))
            inputs = outputs
    layers += [convolution(inputs, 1280, activation=nn.ReLU6), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Dropout(0.2), nn.Linear(1280, 1000))


def vgg16() -> nn.Sequential:
    """VGG-16 (configuration D, no batch norm): 15.47 GMAC, 138.36 M parameters."""
    layers: list[nn.Module] = []
    inputs = 3
    for width, repeats in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(repeats):
            layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU(inplace=True)]
            inputs = width
        layers.append(nn.MaxPool2d(2))
    layers.append(nn.Flatten())
    for features in (512 * 7 * 7, 4096):
        layers += [nn.Linear(features, 4096), nn.ReLU(inplace=True), nn.Dropout()]
    return nn.Sequential(*layers, nn.Linear(4096, 1000))
