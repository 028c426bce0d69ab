"""Tiny models written by transformers itself, of odd widths and with random weights: what ours are held against."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from tests.models.encoders import ENCODERS
from tl_jax.model import Model

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] a b c d e ##a ##b ##c , . where is my parcel ##s ? the".split()
CONFIG = {
    "vocab_size": len(WORDS),
    "hidden_size": 18,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 29,
    "max_position_embeddings": 23,
    "type_vocab_size": 2,
}
# What the config of another family has beside BERT's keys, or in place of them.
OWN: dict[str, dict[str, Any]] = {
    "roberta": {"pad_token_id": 0, "max_position_embeddings": 24},  # one row of which is padding's
}
OWN["xlm-roberta"] = OWN["camembert"] = OWN["roberta"]
Maker = Callable[..., Path]


@pytest.fixture
def tiny_bert(tmp_path: Path, seed: int) -> Maker:
    """`tiny_bert("BertModel", dtype="float32", shard=None, **config)` writes such a folder and returns it.

    The class may be another family's.
    """
    import torch
    import transformers

    def make(kind: str = "BertModel", *, dtype: str = "float32", shard: int | None = None, **config: Any) -> Path:
        torch.manual_seed(seed)
        cls = getattr(transformers, kind)
        family = cls.config_class.model_type
        named = next((encoder.named for encoder in ENCODERS if encoder.model_type == family), dict)
        model = cls(cls.config_class(**named({**CONFIG, **OWN.get(family, {}), **config})))
        with torch.no_grad():
            for tensor in model.parameters():  # biases start at zero and norms at one: neither would show a mix-up
                tensor.add_(0.3 * torch.randn_like(tensor))
        folder = tmp_path / f"{kind}-{dtype}-{shard}-{len(list(tmp_path.iterdir()))}"
        size = {} if shard is None else {"max_shard_size": shard}
        model.to(getattr(torch, dtype)).save_pretrained(folder, **size)
        write_tokenizer(folder)
        return folder

    return make


def write_tokenizer(folder: Path) -> None:
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"do_lower_case": True, "model_max_length": 23, "tokenizer_class": "BertTokenizer"})
    )


def tensors_of(folder: Path) -> dict[str, Any]:
    """The tensors of a folder as the safetensors library itself reads them with torch, by name."""
    from safetensors.torch import load_file

    return {name: t for path in sorted(folder.glob("model*.safetensors")) for name, t in load_file(path).items()}


def assert_same_tensors(a: Path, b: Path) -> None:
    """Two folders hold the same names, dtypes, shapes and bits."""
    import torch

    ours, theirs = tensors_of(a), tensors_of(b)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype, name
        assert ours[name].shape == tensor.shape, name
        width = {2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
        assert torch.equal(ours[name].view(width), tensor.view(width)), name


def rewrite(folder: Path, rename: Callable[[str], str | None], **extra: np.ndarray) -> None:
    """Rename tensors of a one-file folder (None: drop), and add some."""
    from safetensors.numpy import load_file, save_file

    path = folder / "model.safetensors"
    tensors = {new: a for name, a in load_file(path).items() if (new := rename(name)) is not None}
    save_file({**tensors, **extra}, path, metadata={"format": "pt"})


def pickle_weights(folder: Path, shards: int = 1, rename: Callable[[str], str] = str, legacy: bool = False) -> None:
    """Put torch's files in the place of a one-file folder's safetensors, with the same tensors."""
    import torch

    def write(tensors: dict[str, Any], name: str) -> None:
        torch.save(tensors, folder / name, _use_new_zipfile_serialization=not legacy)

    tensors = {rename(name): tensor for name, tensor in tensors_of(folder).items()}
    (folder / "model.safetensors").unlink()
    if shards == 1:
        write(tensors, "pytorch_model.bin")
        return
    files = [f"pytorch_model-{i:05d}-of-{shards:05d}.bin" for i in range(1, shards + 1)]
    where = {name: files[i % shards] for i, name in enumerate(tensors)}
    for file in files:
        write({name: tensors[name] for name in where if where[name] == file}, file)
    index = {"metadata": {}, "weight_map": where}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))


def set_json(path: Path, **values: Any) -> None:
    """Change keys of a JSON file; None takes one out."""
    content = json.loads(path.read_text()) | values
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def outputs(model: Model, variables: Any, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """What the model makes of a batch, compiled, in full float32."""
    with jax.default_matmul_precision("highest"):
        return jax.jit(model.apply)(variables, batch)


def texts(rng: np.random.Generator, n: int) -> Iterator[str]:
    """`n` texts of one to nine words of the tiny vocabulary."""
    for _ in range(n):
        yield " ".join(rng.choice(WORDS[5:10] + WORDS[15:], rng.integers(1, 10)))
