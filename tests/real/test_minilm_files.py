"""all-MiniLM-L6-v2 as it lies on the hub: every tensor accounted for, every bit back, and its own golden outputs."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.parity import PARITY, relative
from tests.pretrained.conftest import assert_same_tensors, outputs
from tl_jax.pretrained import fingerprint, load, save
from tl_jax.pretrained.weights import read
from tl_jax.rules import paths

SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def test_the_file_is_the_one_everybody_has(minilm: Path) -> None:
    assert fingerprint(minilm)["model.safetensors"] == SHA256


def test_every_tensor_is_used_or_carried(minilm: Path) -> None:
    model, variables = load(minilm)
    info = model.info
    assert set(info.names.values()) | set(info.carried) == set(read(minilm))
    assert set(info.carried) == {"embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias"}
    assert set(paths(variables)) == set(info.names)
    assert sum(leaf.size for leaf in paths(variables).values()) == 22_565_376  # of 22,713,216, less ids and pooler
    assert (info.pooling, info.processor.max_length) == ("mean", 256)


@pytest.mark.parametrize("pooling", ["auto", "pooler"])
def test_the_whole_file_comes_back(minilm: Path, tmp_path: Path, pooling: str) -> None:
    out = save(tmp_path / "out", *load(minilm, pooling=pooling))
    assert hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest() == SHA256
    assert json.loads((out / "config.json").read_text()) == json.loads((minilm / "config.json").read_text())


def test_shards_hold_the_same_bits(minilm: Path, tmp_path: Path) -> None:
    out = save(tmp_path / "out", *load(minilm), max_shard_size="20MB")
    assert len(list(out.glob("model-*.safetensors"))) > 3
    assert_same_tensors(out, minilm)


@pytest.mark.parametrize("pooling", ["auto", "pooler"])
def test_golden_outputs(minilm: Path, data: Path, pooling: str) -> None:
    golden = np.load(data / "w_minilm_l6_v2" / "golden.npz")
    model, variables = load(minilm, pooling=pooling)
    batch = model.info.processor([str(text) for text in golden["sentences"]])
    mask = golden["attention_mask"] == 1
    assert np.array_equal(batch["tokens"], golden["input_ids"]) and np.array_equal(batch["mask"], mask)
    embedded, done = model.apply(variables, batch, stop="layers_0"), outputs(model, variables, batch)
    assert relative(np.asarray(embedded["hidden"])[mask], golden["embedding_output"][mask]) <= PARITY
    assert relative(np.asarray(done["hidden"])[mask], golden["last_hidden_state"][mask]) <= PARITY
    if pooling == "pooler":
        assert relative(done["pooled"], golden["pooler_output"]) <= PARITY
    else:
        pooled = np.asarray(done["pooled"])
        unit = pooled / np.linalg.norm(pooled, axis=-1, keepdims=True)
        assert relative(unit, golden["sentence_embedding"]) <= PARITY


def test_ids_are_those_of_transformers(minilm: Path, data: Path, rng: np.random.Generator) -> None:
    import transformers

    lines = (data / "t_sst2" / "dev.jsonl").read_text("utf-8").splitlines()
    points = [chr(int(p)) for p in rng.integers(1, 0x110000, 2000) if not 0xD800 <= p < 0xE000]
    texts = [
        "",
        "a" * 200,
        "Ünïcödé naïve — “quotes” 中文 😀👩\u200d👧 [SEP]",
        *("".join(points[i : i + 9]) for i in range(0, len(points), 9)),
        *(json.loads(lines[i])["text"] for i in rng.integers(0, len(lines), 200)),
    ]
    texts.append(" ".join(texts))  # longer than the model allows
    expected = transformers.BertTokenizerFast.from_pretrained(minilm)(texts, truncation=True, max_length=256)
    ours = load(minilm)[0].info.processor.encode(texts)
    for text, (ids, _), wanted in zip(texts, ours, expected["input_ids"], strict=True):
        assert ids.tolist() == wanted, text
    assert ours.truncated == 1


def test_loading_is_light(minilm: Path) -> None:
    """Point 14, in a process of its own: nothing heavy is imported; `make bench` prints the seconds."""
    program = (
        "import sys; from tl_jax.pretrained import load\nload(sys.argv[1])\n"
        "print({'torch', 'transformers', 'tokenizers', 'huggingface_hub'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(minilm)], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
