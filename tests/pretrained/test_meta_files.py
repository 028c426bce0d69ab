"""Llamas as Meta and llama2.c write them compute what they compute in Hugging Face's format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.models.test_decoders import reference_model
from tests.parity import assert_same_bits
from tests.pretrained.conftest import assert_same_tensors
from tl_jax.errors import InputError
from tl_jax.pretrained import fingerprint, load, save
from tl_jax.pretrained.meta_files import halved
from tl_jax.pretrained.safetensors_files import write

RAW = {
    "vocab_size": 17,
    "hidden_size": 18,
    "intermediate_size": 13,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
}
PARAMS = {"dim": 18, "n_layers": 2, "n_heads": 3, "n_kv_heads": 1, "norm_eps": 1e-5, "vocab_size": -1}
NAMES = {
    "model.embed_tokens": "tok_embeddings",
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.up_proj": "feed_forward.w3",
    "mlp.down_proj": "feed_forward.w2",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
    "lm_head": "output",
    "model.": "",
}


def interleaved(kernel: np.ndarray, heads: int) -> np.ndarray:
    """Rows whose pairs lie half a head apart, with the two of a pair side by side: row by row, as one would say it."""
    width = len(kernel) // heads
    order = [
        head * width + j + half * width // 2 for head in range(heads) for j in range(width // 2) for half in (0, 1)
    ]
    return kernel[order]


def meta_folder(folder: Path, hf: Path, params: dict[str, Any], prefix: str = "") -> Path:
    """The model of a Hugging Face folder as Meta writes it."""
    from safetensors.numpy import load_file

    tensors = {}
    for name, array in load_file(hf / "model.safetensors").items():
        heads = 3 if ".q_proj" in name else 1 if ".k_proj" in name else 0
        for theirs, metas in NAMES.items():
            name = name.replace(theirs, metas)
        tensors[prefix + name] = interleaved(array, heads) if heads else array
    folder.mkdir()
    write(folder / "weights.safetensors", tensors)
    (folder / "params.json").write_text(json.dumps(params))
    return folder


@pytest.fixture
def pair(tmp_path, seed):
    """`pair(tied)` are a Hugging Face folder and the same model as Meta writes it."""

    def make(tied: bool = False, prefix: str = "", **params: Any) -> tuple[Path, Path]:
        reference_model("llama", RAW | {"tie_word_embeddings": tied}, seed).save_pretrained(tmp_path / "hf")
        return tmp_path / "hf", meta_folder(tmp_path / "meta", tmp_path / "hf", PARAMS | params, prefix)

    return make


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
def test_it_is_the_same_model(tied, prefix, pair, tmp_path):
    hf, meta = pair(tied, prefix)
    (theirs, expected), (model, variables) = load(hf), load(meta)
    assert model == theirs
    assert_same_bits(variables, expected)
    assert_same_tensors(save(tmp_path / "out", model, variables), hf)


def test_a_tied_head_that_is_there_twice(pair, tmp_path):
    """As llama2.c keeps it."""
    from safetensors.numpy import load_file

    hf, meta = pair(tied=True)
    tensors = load_file(meta / "weights.safetensors")
    write(meta / "weights.safetensors", {**tensors, "output.weight": tensors["tok_embeddings.weight"]})
    (model, variables), (_, expected) = load(meta), load(hf)
    assert model.info.config["tie_word_embeddings"]
    assert_same_bits(variables, expected)
    write(meta / "weights.safetensors", {**tensors, "output.weight": tensors["tok_embeddings.weight"] + 1})
    assert not load(meta)[0].info.config["tie_word_embeddings"]


@pytest.mark.parametrize(
    ("vocabulary", "said", "length", "ids"),
    [
        (128_256, {"norm_eps": 1e-5, "rope_theta": 500_000.0}, 8192, (128_000, 128_001)),
        (32_000, {"norm_eps": 1e-5}, 4096, (1, 2)),
        (32_000, {"norm_eps": 1e-6}, 2048, (1, 2)),
        (512, {"norm_eps": 1e-5}, 2048, (1, 2)),
        (50_304, {"norm_eps": 1e-5}, 2048, (None, None)),
        (128_256, {"max_seq_len": 77, "bos_id": 5, "eos_id": 6}, 77, (5, 6)),
    ],
    ids=["Llama 3", "Llama 2", "Llama 1", "llama2.c", "another", "said"],
)
def test_what_settings_do_not_say_is_told_by_the_vocabulary(vocabulary, said, length, ids, tmp_path):
    import transformers

    kernels = {
        **{f"layers.0.attention.w{one}": (2, 2) for one in "qkvo"},
        **{f"layers.0.feed_forward.w{i}": (2, 3) if i == 2 else (3, 2) for i in (1, 2, 3)},
        **dict.fromkeys(["layers.0.attention_norm", "layers.0.ffn_norm", "norm"], (2,)),
        "tok_embeddings": (vocabulary, 2),
    }
    folder = tmp_path / "meta"
    folder.mkdir()
    write(folder / "a.safetensors", {f"{name}.weight": np.ones(shape, np.float16) for name, shape in kernels.items()})
    (folder / "params.json").write_text(json.dumps({"dim": 2, "n_layers": 1, "n_heads": 1, **said}))
    model, variables = load(folder)
    out = save(tmp_path / "out", model, variables)
    for config in (model.info.config, transformers.AutoConfig.from_pretrained(out).to_dict()):
        assert (config["vocab_size"], config["max_position_embeddings"]) == (vocabulary, length)
        assert (config["bos_token_id"], config["eos_token_id"]) == ids


def test_every_file_that_is_read_is_in_the_fingerprint(pair):
    """Also where the weights have the name that Hugging Face gives them."""
    _, meta = pair()
    (meta / "weights.safetensors").rename(meta / "model.safetensors")
    load(meta)
    assert set(fingerprint(meta)) == {"params.json", "model.safetensors"}


def test_a_folder_that_says_its_family_is_no_folder_of_meta_s(pair):
    """Repositories of Mistral have both."""
    hf, meta = pair()
    expected = load(hf)
    for path in meta.iterdir():
        path.rename(hf / path.name.replace("weights", "consolidated"))
    model, variables = load(hf)
    assert model == expected[0]
    assert_same_bits(variables, expected[1])
    assert "params.json" not in fingerprint(hf)


def test_torch_s_files_are_read_too(pair):
    import torch
    from safetensors.torch import load_file

    _, meta = pair()
    before = load(meta)[1]
    tensors = load_file(meta / "weights.safetensors")
    torch.save({"model": tensors, "model_args": PARAMS, "iter_num": 3}, meta / "ckpt.pt")
    (meta / "weights.safetensors").unlink()
    assert_same_bits(load(meta)[1], before)
    assert set(fingerprint(meta)) == {"params.json", "ckpt.pt"}


def test_halving_puts_pairs_half_a_head_apart(rng):
    kernel = rng.normal(size=(24, 5))
    np.testing.assert_array_equal(halved(interleaved(kernel, 3), 3), kernel)
    assert (interleaved(kernel, 3) != kernel).any()


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"use_scaled_rope": True}, "use_scaled_rope does not say by how much"),
        ({"n_heads": "3"}, "n_heads must be a positive integer, not '3'"),
        ({"n_heads": 2}, r"attention.wq.weight \[18, 18\] is not that of 2 heads of pairs"),
        ({"n_layers": 3}, "missing"),
    ],
)
def test_settings_that_do_not_fit(params, said, pair):
    _, meta = pair(**params)
    with pytest.raises(InputError, match=said):
        load(meta)


def test_weights_that_do_not_fit(pair):
    _, meta = pair()
    write(meta / "more.safetensors", {"a": np.zeros(1, np.float32)})
    with pytest.raises(InputError, match=r"several files of weights \(more.safetensors, weights.safetensors\)"):
        load(meta)
    (meta / "weights.safetensors").unlink()
    with pytest.raises(InputError, match=r"holds no tok_embeddings.weight, as a Llama under Meta's names does"):
        load(meta)
    (meta / "more.safetensors").unlink()
    with pytest.raises(InputError, match="holds no weights"):
        load(meta)


def test_a_tensor_of_another_model_is_named(pair):
    from safetensors.numpy import load_file

    _, meta = pair()
    tensors = load_file(meta / "weights.safetensors")
    write(meta / "weights.safetensors", {**tensors, "layers.0.attention.bias": np.zeros(1, np.float32)})
    with pytest.raises(InputError, match=r"'layers.0.attention.bias' is none of a Llama's under Meta's names"):
        load(meta)
