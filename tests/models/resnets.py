"""ResNets that ours are held against: transformers' own, and torchvision's and the CIFAR ones written out in torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

LABELS = 5
KINDS = ("ResNetModel", "ResNetForImageClassification")


def draw(rng: np.random.Generator, **given: Any) -> dict[str, Any]:
    """An odd configuration of transformers' ResNet: narrow, of two levels and up to three blocks, no two widths alike.

    Not narrower: behind few channels a batch norm undoes most of what a kernel does, and what is left of its gradient
    is rounding. Not deeper: in training each norm divides rounding by the spread of a few values, and behind six blocks
    torch's float32 is up to 5e-5 off its own float64. Two that are both as near to the truth as float32 comes differ
    then by more than law 2 allows, at one draw in ten; ours did so even with norms computed in float64.
    """
    depths = [(1, 1), (1, 2), (2, 1)]
    raw = {
        "model_type": "resnet",
        "num_channels": int(rng.integers(1, 5)),
        "embedding_size": int(rng.integers(7, 13)),
        "hidden_sizes": sorted(rng.choice(range(20, 32), 2, replace=False).tolist()),
        "depths": rng.choice(depths).tolist(),
        "layer_type": str(rng.choice(["basic", "bottleneck"])),
        "hidden_act": str(rng.choice(["relu", "gelu", "tanh", "leaky_relu"])),
        "downsample_in_first_stage": bool(rng.integers(2)),
        "downsample_in_bottleneck": bool(rng.integers(2)),
    }
    return raw | given


def draw_cifar(rng: np.random.Generator, **given: Any) -> dict[str, Any]:
    """A CIFAR ResNet: even widths that double, so that what is padded is the same on both sides."""
    width = 2 * int(rng.integers(1, 4))
    raw = {
        "model_type": "cifar_resnet",
        "embedding_size": width,
        "hidden_sizes": [width, 2 * width, 4 * width],
        "layer_type": "basic",
        "hidden_act": "relu",
        "downsample_in_first_stage": False,
        "downsample_in_bottleneck": False,
        "stem": "cifar",
        "shortcut": str(rng.choice(["padding", "projection"])),
    }
    return draw(rng, **raw, depths=rng.integers(1, 3, 3).tolist()) | given


def image(raw: Mapping[str, Any], rng: np.random.Generator, rows: int = 4) -> np.ndarray:
    """Images f32 [B, H, W, C] that are not square, and large enough that every level has several pixels."""
    size = (37, 29) if raw.get("stem", "imagenet") == "imagenet" else (11, 9)
    return rng.normal(size=(rows, *size, raw["num_channels"])).astype(np.float32)


def of_transformers(kind: str, raw: Mapping[str, Any], seed: int) -> Any:
    """The model of transformers, in evaluation mode, no parameter or statistic of it near zero or one."""
    import transformers

    config = transformers.ResNetConfig(**{k: v for k, v in raw.items() if k != "model_type"}, num_labels=LABELS)
    return scattered(getattr(transformers, kind)(config), seed)


def of_torch(raw: Mapping[str, Any], seed: int) -> Any:
    """The same as torchvision defines it, or a CIFAR ResNet where `raw` is one's, under the names of their files."""
    import torch
    from torch import nn

    cifar = raw.get("stem") == "cifar"

    def convolution(inputs: int, outputs: int, size: int, stride: int) -> Any:
        return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)

    class Block(nn.Module):
        def __init__(self, inputs: int, outputs: int, stride: int) -> None:
            super().__init__()
            if raw["layer_type"] == "basic":
                plan = [(outputs, 3, stride), (outputs, 3, 1)]
            else:
                first = stride if raw["downsample_in_bottleneck"] else 1
                plan = [(outputs // 4, 1, first), (outputs // 4, 3, stride // first), (outputs, 1, 1)]
            self.count, width = len(plan), inputs
            for i, (features, size, step) in enumerate(plan, 1):
                setattr(self, f"conv{i}", convolution(width, features, size, step))
                setattr(self, f"bn{i}", nn.BatchNorm2d(features))
                width = features
            self.relu, self.padding = nn.ReLU(), None
            if stride != 1 or inputs != outputs:
                if raw.get("shortcut") == "padding":
                    self.padding = (outputs - inputs) // 2
                else:
                    across = nn.Sequential(convolution(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))
                    setattr(self, "shortcut" if cifar else "downsample", across)

        def forward(self, x: Any) -> Any:
            y = x
            for i in range(1, self.count + 1):
                y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
                y = self.relu(y) if i < self.count else y
            if self.padding is not None:
                x = nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.padding, self.padding))
            for name in ("shortcut", "downsample"):
                x = getattr(self, name)(x) if hasattr(self, name) else x
            return self.relu(y + x)

    class ResNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            width = raw["embedding_size"]
            self.conv1 = convolution(raw["num_channels"], width, *((3, 1) if cifar else (7, 2)))
            self.bn1, self.relu = nn.BatchNorm2d(width), nn.ReLU()
            self.maxpool = nn.Identity() if cifar else nn.MaxPool2d(3, 2, padding=1)
            self.levels = []
            for level, (features, depth) in enumerate(zip(raw["hidden_sizes"], raw["depths"], strict=True), 1):
                stride = 2 if level > 1 or raw["downsample_in_first_stage"] else 1
                blocks = [Block(width, features, stride), *(Block(features, features, 1) for _ in range(depth - 1))]
                setattr(self, f"layer{level}", nn.Sequential(*blocks))
                self.levels.append(f"layer{level}")
                width = features
            self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
            self.last = "linear" if cifar else "fc"
            setattr(self, self.last, nn.Linear(width, LABELS))

        def forward(self, x: Any) -> Any:
            x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
            for level in self.levels:
                x = getattr(self, level)(x)
            return getattr(self, self.last)(torch.flatten(self.avgpool(x), 1))

    return scattered(ResNet(), seed)


def scattered(model: Any, seed: int) -> Any:
    """The model with what starts at zero or one drawn, in evaluation mode.

    Norms scale by about a quarter, so that tanh does not saturate: the largest of nine values near 1 hardly varies, and
    the next norm makes its rounding ten times as large. The variances are such that evaluation keeps a signal's size.
    """
    import torch

    generator = torch.Generator().manual_seed(seed % 2**31)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d):
                inputs = math.prod(module.weight.shape[1:])
                module.weight.normal_(0, inputs**-0.5, generator=generator)
            elif isinstance(module, torch.nn.Linear):
                module.weight.normal_(0, 0.3, generator=generator)
                module.bias.normal_(0, 0.3, generator=generator)
            elif isinstance(module, torch.nn.BatchNorm2d):
                module.weight.uniform_(0.15, 0.35, generator=generator)
                for tensor in (module.bias, module.running_mean):
                    tensor.normal_(0, 0.1, generator=generator)
                module.running_var.uniform_(0.03, 0.12, generator=generator)
    return model.eval()


def places(model: Any) -> dict[str, Any]:
    """The module whose output is what our stage of that name writes."""
    if hasattr(model, "conv1"):
        blocks = [block for level in model.levels for block in getattr(model, level)]
        first, pooler, head = model.maxpool, model.avgpool, getattr(model, model.last)
    else:
        body = getattr(model, "resnet", model)
        blocks = [block for level in body.encoder.stages for block in level.layers]
        first, pooler, head = body.embedder, body.pooler, getattr(model, "classifier", None)
    found = {"stem": first, **{f"blocks_{i}": block for i, block in enumerate(blocks)}, "pooler": pooler, "head": head}
    return {name: module for name, module in found.items() if module is not None}
