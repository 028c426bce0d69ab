"""Folders that transformers itself wrote, of every class that a model of images or of language may be read from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.models import decoders, resnets, test_decoders, test_vit
from tests.models.test_vit import EVERY
from tl_jax.models.heads import classifier
from tl_jax.models.vit import CONFIG
from tl_jax.pretrained import load, save

# model_type and class
IMAGES = [*EVERY, ("resnet", "Model"), ("resnet", "ForImageClassification")]
LANGUAGE = [(model_type, kind) for model_type in decoders.TYPES for kind in ("ForCausalLM", "Model", "classifier")]
LABELS = ("no", "yes", "perhaps")


def write(folder: Path, model_type: str, kind: str, rng: np.random.Generator, seed: int, **given: Any) -> Path:
    """A folder of random weights in an odd configuration; of a ViT with its processor, unless `channels` forbid one."""
    if model_type == "resnet":
        resnets.of_transformers(f"ResNet{kind}", resnets.draw(rng, **given), seed).save_pretrained(folder)
    elif model_type in decoders.TYPES:
        _write_decoder(folder, model_type, kind, rng, seed, **given)
    else:
        raw = test_vit.draw(rng, **{"num_channels": 3, **given})
        test_vit.reference_model(model_type, kind, raw, seed).save_pretrained(folder)
        if raw["num_channels"] == 3:
            _write_processor(folder, *CONFIG(raw).image_shape[:2])
    return folder


def _write_processor(folder: Path, height: int, width: int) -> None:
    import transformers

    size = {"height": height, "width": width}
    transformers.ViTImageProcessorPil(size=size, image_std=[0.4, 0.5, 0.6]).save_pretrained(folder)


def _write_decoder(folder: Path, model_type: str, kind: str, rng: np.random.Generator, seed: int, **given: Any) -> None:
    """`kind` "classifier" is a folder of sentence-transformers with a head over the last token."""
    whole = test_decoders.reference_model(model_type, decoders.draw(model_type, rng, **given), seed)
    if kind == "ForCausalLM":
        whole.save_pretrained(folder)
        return
    base = folder if kind == "Model" else folder.with_name(f"{folder.name}.base")
    whole.model.save_pretrained(base)
    if kind == "classifier":
        model, variables = load(base, pooling="last")
        model = model.attach(classifier(len(LABELS), model.info.config))
        width = model.info.config["hidden_size"]
        shapes = {"kernel": (width, len(LABELS)), "bias": (len(LABELS),)}
        head = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
        save(folder, model, {"params": {**variables["params"], "head": head}}, labels=LABELS)
