"""What end-to-end tests on images fine-tune: a ViT of two layers in a Hugging Face folder, pictures of three things.

Everything is a pure function of its arguments; nothing here needs torch or a network.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

LABELS = ("bar", "dot", "ring")
SIDE = 12
CONFIG: dict[str, Any] = {
    "architectures": ["ViTModel"],
    "model_type": "vit",
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "initializer_range": 0.15,
    "image_size": SIDE,
    "patch_size": 4,
}
PROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "size": {"height": SIDE, "width": SIDE},
    "resample": 2,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


def write_vit(folder: Path, *, seed: int = 0, **config: Any) -> Path:
    """A Hugging Face folder of random weights."""
    import jax
    import jax.numpy as jnp

    from tl_jax.model import Model, ModelInfo
    from tl_jax.models.families import family
    from tl_jax.pretrained import ImageProcessor, save

    raw = {**CONFIG, **config}
    architecture = family(raw["model_type"])
    settings = architecture.CONFIG(raw)
    shape = settings.image_shape
    info = ModelInfo(
        family=raw["model_type"],
        config=raw,
        processor=ImageProcessor({**PROCESSOR, "size": {"height": shape[0], "width": shape[1]}}, shape[2]),
        pooling="cls",
        example={"image": jax.ShapeDtypeStruct((1, *shape), jnp.float32)},
    )
    model = Model(architecture.stages(settings, "cls"), inputs=("image",), info=info)
    save(folder, model, jax.tree.map(np.asarray, model.init(jax.random.key(seed))))
    return folder


def picture(label: str, rng: np.random.Generator, side: int = 16) -> np.ndarray:
    """uint8 `[side, side, 3]`: a bar, a dot or a ring somewhere on noise."""
    y, x = np.mgrid[:side, :side]
    top, left = rng.integers(side // 3, side - side // 3, 2)
    apart = np.hypot(y - top, x - left)
    shown = {"bar": abs(y - top) < 2, "dot": apart < side / 5, "ring": abs(apart - side / 3.5) < 1.3}[label]
    colour = {"bar": (230, 90, 70), "dot": (80, 210, 90), "ring": (70, 90, 230)}[label]
    noise = rng.integers(0, 120, (side, side, 3))
    return np.where(shown[..., None], np.asarray(colour), noise).astype(np.uint8)


def pictures(count: int, seed: int = 0) -> tuple[np.ndarray, list[str]]:
    """`count` pictures uint8 `[count, 16, 16, 3]` and their labels, each as often as the others."""
    rng = np.random.default_rng([seed, count])
    labels = [LABELS[i % len(LABELS)] for i in range(count)]
    return np.stack([picture(label, rng) for label in labels]), labels


def write_folder(folder: Path, count: int, seed: int = 0, suffix: str = ".png") -> Path:
    """A subfolder for each label."""
    images, labels = pictures(count, seed)
    for i, (pixels, label) in enumerate(zip(images, labels, strict=True)):
        (folder / label).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / label / f"{i:03}{suffix}")
    return folder


def write_npz(path: Path, **parts: tuple[int, int]) -> Path:
    """Arrays `<part>_images` and `<part>_labels` of that many pictures, drawn by that seed, and `class_names`."""
    arrays: dict[str, Any] = {"class_names": np.array(LABELS)}
    for part, (count, seed) in parts.items():
        images, labels = pictures(count, seed)
        arrays |= {f"{part}_images": images, f"{part}_labels": np.array([LABELS.index(label) for label in labels])}
    np.savez(path, **arrays)
    return path


# Settings under which the tiny model learns its pictures in a second or two, by method.
METHODS: dict[str, dict[str, Any]] = {
    "probe": {},
    "full": {"lr": 3e-3},
    "last_layers:k=1": {"lr": 5e-3},
    "lp_ft": {"lr": 2e-3},
    "lora:rank=4": {"lr": 1e-2},
    "scratch": {"lr": 3e-3},
}
HEAD = "last_layers:k=0"


def settings(method: str, **changes: Any) -> dict[str, Any]:
    """What `tl.finetune` takes beside model and data."""
    return {
        "method": method,
        "epochs": 5,
        "batch_size": 16,
        **{**METHODS, HEAD: {"lr": 3e-2}}.get(method, {}),
        **changes,
    }


def flags(method: str, **changes: Any) -> list[str]:
    """The same for the command line."""
    pairs = settings(method, **changes).items()
    return [word for name, value in pairs for word in (f"--{name.replace('_', '-')}", str(value))]


@dataclass(frozen=True)
class Seen:
    """Files to fine-tune with: a model's folder, a folder of images to train on, a file of them to score."""

    folder: Path
    model: Path
    train: Path
    test: Path


def make(folder: Path) -> Seen:
    """The files, in `folder`."""
    return Seen(
        folder,
        write_vit(folder / "vit"),
        write_folder(folder / "shapes", 120),
        write_npz(folder / "new.npz", test=(45, 1)),
    )


def tune(seen: Seen, out: Path, method: str, **changes: Any) -> Any:
    """The run of a method, in this process and in silence."""
    import tl_jax as tl

    given = {"data": seen.train, "eval_data": seen.test, **settings(method, **changes)}
    return tl.finetune(seen.model, out=out, quiet=True, **given)
