"""ResNets (He et al. 2015, arXiv 1512.03385): `stem`, `blocks_0` …, `pooler`; each residual block is a stage.

Two model types. `resnet` is what transformers and torchvision compute: basic or bottleneck blocks behind a 7 × 7
convolution and a max pooling, shortcuts projected. In a bottleneck the stride is in the 3 × 3 convolution (v1.5, as
torchvision and Nvidia have it), or with `downsample_in_bottleneck` in the first 1 × 1 (v1, as in the paper).
`cifar_resnet`, which no class of transformers computes, has for small images a `stem` of one 3 × 3 convolution at full
resolution, and its `shortcut` may be `padding`, without parameters, as in section 4.2 of the paper.

transformers counts blocks within each level (its "stage"), so do torchvision (from `layer1`) and the usual CIFAR code;
here they are numbered through. The activation inside a block is ReLU and the one behind it `hidden_act`, as in
transformers. Images need no size: any that the strides leave a pixel of.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from itertools import count
from typing import Any

from tl_jax.errors import InputError, did_you_mean
from tl_jax.models.conv_layers import AveragePooler, ResidualBlock, Stem
from tl_jax.models.layers import activation
from tl_jax.models.names import Entry, NameMap, batch_norm, convolution, dense
from tl_jax.stage import Stage

INPUTS = ("image",)
POOLINGS = ("pooler",)
CLASSIFIER = ("ForImageClassification", "pooler")
LAYER_TYPES = ("basic", "bottleneck")
STEMS = {"imagenet": (7, 2, True), "cifar": (3, 1, False)}  # kernel, stride, whether a max pooling follows
SHORTCUTS = ("projection", "padding")  # of a block that changes width or resolution
_REDUCTION = 4  # of width inside a bottleneck
_SHORTCUT_NAMES = ("downsample", "shortcut")  # torchvision's, and that of CIFAR ResNets which project


@dataclass(frozen=True)
class ResNetConfig:
    """What config.json says of the architecture, in transformers' words; `stem` and `shortcut` are ours."""

    num_channels: int = 3
    embedding_size: int = 64
    hidden_sizes: tuple[int, ...] = (256, 512, 1024, 2048)
    depths: tuple[int, ...] = (3, 4, 6, 3)
    layer_type: str = "bottleneck"
    hidden_act: str = "relu"
    downsample_in_first_stage: bool = False
    downsample_in_bottleneck: bool = False
    stem: str = "imagenet"
    shortcut: str = "projection"

    @property
    def hidden_size(self) -> int:
        """The width of `pooled`."""
        return self.hidden_sizes[-1]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image of the size the stem is made for; others are computed as well."""
        size = 224 if self.stem == "imagenet" else 32
        return size, size, self.num_channels


def CONFIG(raw: Mapping[str, Any]) -> ResNetConfig:
    """Read config.json; raises `InputError` for what is no ResNet."""
    given = {field.name: raw[field.name] for field in fields(ResNetConfig) if raw.get(field.name) is not None}
    for key in ("hidden_sizes", "depths"):
        if key in given:
            given[key] = tuple(given[key]) if isinstance(given[key], list | tuple) else (given[key],)
    c = ResNetConfig(**given)
    _check(c)
    if raw.get("model_type") == "resnet" and (c.stem, c.shortcut) != ("imagenet", "projection"):
        raise InputError("config.json: stem and shortcut are for the model_type cifar_resnet; a resnet has no choice")
    return c


def _check(c: ResNetConfig) -> None:
    widths = [c.embedding_size, *c.hidden_sizes]
    if not all(type(size) is int and size > 0 for size in (c.num_channels, *widths, *c.depths)) or not c.depths:
        raise InputError(
            "config.json of a ResNet must have numbers above 0 for num_channels, embedding_size, hidden_sizes, depths"
        )
    if len(c.hidden_sizes) != len(c.depths):
        raise InputError(f"config.json: {len(c.hidden_sizes)} hidden_sizes for {len(c.depths)} depths")
    for key, choices in (("layer_type", LAYER_TYPES), ("stem", tuple(STEMS)), ("shortcut", SHORTCUTS)):
        if (said := getattr(c, key)) not in choices:
            raise InputError(f"config.json: unknown {key} {said!r}{did_you_mean(said, choices)}")
    activation(str(c.hidden_act))
    if c.layer_type == "bottleneck" and min(c.hidden_sizes) < _REDUCTION:
        raise InputError(f"config.json: a bottleneck of width {min(c.hidden_sizes)} has no quarter of it inside")
    if c.shortcut == "padding" and widths != sorted(widths):
        raise InputError(f"config.json: a shortcut of padding cannot narrow embedding_size, hidden_sizes: {widths}")


def stages(config: ResNetConfig, pooling: str = "pooler") -> tuple[Stage, ...]:
    """The chain: `stem`, `blocks_i`, `pooler`, the mean over all pixels. There is one pooling, the model's own."""
    stem = Stem(config.embedding_size, *STEMS[config.stem], config.hidden_act)
    return (
        Stage("stem", stem, ("image",), ("hidden",)),
        *(Stage(f"blocks_{i}", block, ("hidden",), ("hidden",)) for i, block in enumerate(_blocks(config))),
        Stage("pooler", AveragePooler(), ("hidden",), ("pooled",)),
    )


def _blocks(c: ResNetConfig) -> Iterator[ResidualBlock]:
    width = c.embedding_size
    for level, (features, depth) in enumerate(zip(c.hidden_sizes, c.depths, strict=True)):
        for block in range(depth):
            stride = 2 if block == 0 and (level > 0 or c.downsample_in_first_stage) else 1
            shortcut = "identity" if stride == 1 and width == features else c.shortcut
            yield ResidualBlock(_convolutions(c, features, stride), shortcut, c.hidden_act)
            width = features


def _convolutions(c: ResNetConfig, features: int, stride: int) -> tuple[tuple[int, int, int], ...]:
    """The (features, kernel, stride) of a block's convolutions."""
    if c.layer_type == "basic":
        return (features, 3, stride), (features, 3, 1)
    inside, first = features // _REDUCTION, stride if c.downsample_in_bottleneck else 1
    return (inside, 1, first), (inside, 3, stride // first), (features, 1, 1)


def NAMES(config: ResNetConfig) -> NameMap:
    """The names of transformers; those of torchvision and of CIFAR ResNets are read as other spellings of them."""
    entries: list[Entry] = [
        convolution("embedder.embedder.convolution", "stem/conv", "conv1"),
        *batch_norm("embedder.embedder.normalization", "stem/norm", "bn1"),
    ]
    places = ((level, block) for level, depth in enumerate(config.depths) for block in range(depth))
    for i, (level, block) in enumerate(places):
        theirs, older = f"encoder.stages.{level}.layers.{block}", f"layer{level + 1}.{block}"
        for n in range(len(_convolutions(config, _REDUCTION, 1))):
            inner = f"{theirs}.layer.{n}"
            entries += [
                convolution(f"{inner}.convolution", f"blocks_{i}/conv_{n + 1}", f"{older}.conv{n + 1}"),
                *batch_norm(f"{inner}.normalization", f"blocks_{i}/norm_{n + 1}", f"{older}.bn{n + 1}"),
            ]
        theirs, others = f"{theirs}.shortcut", [f"{older}.{name}" for name in _SHORTCUT_NAMES]
        entries += [
            convolution(f"{theirs}.convolution", f"blocks_{i}/shortcut/conv", *(f"{name}.0" for name in others)),
            *batch_norm(f"{theirs}.normalization", f"blocks_{i}/shortcut/norm", *(f"{name}.1" for name in others)),
        ]
    return NameMap(
        tuple(entries),
        classifier=dense("classifier.1", "head", "fc", "linear"),
        prefixes=("resnet.",),
        ignored=(r".*\.num_batches_tracked",),
    )


def infer(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any] | None:
    """The config.json of a ResNet by the shapes of its tensors, under torchvision's names or a CIFAR ResNet's.

    None for tensors of something else. What shapes do not tell is as in torchvision: ReLU, the stride of a bottleneck
    in its 3 × 3 convolution. Raises `InputError` for relatives of the ResNet that are not computed here.
    """
    kernels = {name.removesuffix(".weight"): shape for name, shape in shapes.items() if len(shape) == 4}
    last = "conv3" if "layer1.0.conv3" in kernels else "conv2"
    depths: list[int] = []
    while depth := next(i for i in count() if f"layer{len(depths) + 1}.{i}.{last}" not in kernels):
        depths.append(depth)
    if "conv1" not in kernels or not depths:
        return None
    levels = [f"layer{level + 1}" for level in range(len(depths))]
    widths = [kernels[f"{level}.0.{last}"][0] for level in levels]
    embedding, channels, kernel, _ = kernels["conv1"]
    if kernel not in (size for size, _, _ in STEMS.values()):
        raise InputError(
            f"ResNets that begin with a convolution of {kernel} × {kernel} are not supported: 7 × 7, 3 × 3"
        )
    for level, width in zip(levels, widths, strict=True):
        _check_block(kernels, level, width if last == "conv2" else width // _REDUCTION)
    projected = [level for level in levels for name in _SHORTCUT_NAMES if f"{level}.0.{name}.0" in kernels]
    padded = not projected and (len(depths) > 1 or embedding != widths[0])
    config: dict[str, Any] = {
        "model_type": "resnet",
        "num_channels": channels,
        "embedding_size": embedding,
        "hidden_sizes": widths,
        "depths": depths,
        "layer_type": "basic" if last == "conv2" else "bottleneck",
        "hidden_act": "relu",
        "downsample_in_first_stage": embedding == widths[0] and "layer1" in projected,
        "downsample_in_bottleneck": False,
    }
    if kernel == STEMS["cifar"][0] or padded:
        config["model_type"] = "cifar_resnet"
        config["stem"] = "cifar" if kernel == STEMS["cifar"][0] else "imagenet"
        config["shortcut"] = "padding" if padded else "projection"
    heads = [shapes[name] for name in ("fc.weight", "linear.weight") if len(shapes.get(name, ())) == 2]
    return config | ({"num_labels": heads[0][0]} if heads else {})


def preprocessing(config: ResNetConfig) -> dict[str, Any]:
    """The preprocessor_config.json of nets that come as a file alone: torchvision's, or that of the CIFAR nets.

    The former's is that of its V1 weights, Resize(256), CenterCrop(224), bilinear: V2, whose tensors are of the same
    names and shapes, wants Resize(232). Both have the mean and deviation of ImageNet's colours.
    """
    colours = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "resample": 2}
    side = config.image_shape[0]
    if config.stem == "cifar":
        return {"image_processor_type": "ViTImageProcessor", "size": {"height": side, "width": side}, **colours}
    return {
        "image_processor_type": "ConvNextImageProcessor",
        "size": {"shortest_edge": side},
        "crop_pct": side / 256,
        **colours,
    }


def _check_block(kernels: Mapping[str, tuple[int, ...]], level: str, inside: int) -> None:
    """Refuse blocks that are wider, or in more groups, than those of a ResNet; `inside` is the width of one of those.

    Whatever else does not fit is told tensor by tensor.
    """
    found = kernels.get(f"{level}.0.conv1", (inside,))[0]
    if found != inside:
        raise InputError(f"wide ResNets are not supported: {level} is {found} wide inside, where {inside} is expected")
    if kernels.get(f"{level}.0.conv2", (0, inside))[1] != inside:
        raise InputError(f"ResNets with convolutions in groups (ResNeXt) are not supported: those of {level} are")
