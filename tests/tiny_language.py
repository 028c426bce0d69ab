"""What end-to-end tests of language models fine-tune: a Llama of two layers, a tokenizer, and texts with a rule."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

LETTERS = " abcdefghijklmnopqrstuvwxyz.,"
MERGED = [" t", "he", " the", " s", "at", " sat", " on", " a", "nd", " and", " c", " cat", " d", "og", " dog"]
ANIMALS = "cat dog cow hen fox owl".split()
PLACES = "mat log hill tree rock wall".split()  # the place of each animal, in the same order
CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 48,
    "rms_norm_eps": 1e-5,
    "initializer_range": 0.1,
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def pieces(merged: Sequence[str] = MERGED, letters: str = LETTERS) -> list[tuple[str, float]]:
    """The pieces of a tokenizer of llama2.c: special ones, bytes, then merges by rank and letters."""
    special = [("<unk>", 0.0), ("\n<s>\n", 0.0), ("\n</s>\n", 0.0), *((f"<0x{i:02X}>", 0.0) for i in range(256))]
    return special + [(text, -float(i)) for i, text in enumerate([*merged, *letters])]


def write_tokenizer(path: Path, of: Iterable[tuple[str, float]]) -> Path:
    """A tokenizer as llama2.c writes it."""
    of = list(of)
    data = b"".join(struct.pack("<fi", score, len(text.encode())) + text.encode() for text, score in of)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<i", max(len(text.encode()) for text, _ in of)) + data)
    return path


def write_llama(folder: Path, seed: int = 0, **config: Any) -> Path:
    """A Hugging Face folder of random weights with its tokenizer."""
    import jax

    from tl_jax.model import Model, ModelInfo
    from tl_jax.models.families import family
    from tl_jax.pretrained import TextProcessor, save

    raw = {**CONFIG, "vocab_size": len(pieces()), **config}
    architecture = family(raw["model_type"])
    tokenizer = write_tokenizer(folder.with_name(f"{folder.name}.tokenizer") / "tok.bin", pieces()).parent
    settings = architecture.CONFIG(raw)
    processor = TextProcessor.read(tokenizer, settings.positions)
    info = ModelInfo(family=raw["model_type"], config=raw, processor=processor, pooling="none")
    model = Model(architecture.stages(settings, "none"), info=info)
    return save(folder, model, jax.tree.map(np.asarray, model.init(jax.random.key(seed))))


def sentence(rng: np.random.Generator) -> tuple[str, str]:
    """A beginning and the end that follows from it."""
    i = int(rng.integers(len(ANIMALS)))
    return f"the {ANIMALS[i]} sat on the", f" {PLACES[i]}."


def story(count: int, seed: int = 0) -> str:
    """A plain text of so many sentences, in paragraphs."""
    rng = np.random.default_rng(seed)
    told = ["".join(sentence(rng)) for _ in range(count)]
    return "\n\n".join(" ".join(told[i : i + 6]) for i in range(0, count, 6)) + "\n"


def write_pairs(path: Path, count: int, seed: int = 0) -> Path:
    """Prompts with their completions, as JSON lines."""
    rng = np.random.default_rng(seed)
    rows = [dict(zip(("prompt", "completion"), sentence(rng), strict=True)) for _ in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
