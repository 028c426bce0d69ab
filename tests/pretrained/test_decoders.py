"""Laws 2 and 3 on language models in Hugging Face folders: what transformers wrote, and what it makes of ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.models.decoders import draw
from tests.models.test_decoders import reference_model
from tests.parity import PARITY, assert_same_bits, relative
from tests.pretrained.conftest import assert_same_tensors, outputs, pickle_weights, rewrite, set_json, tensors_of
from tests.pretrained.test_saving import perturbed
from tl_jax.errors import InputError
from tl_jax.model import Model
from tl_jax.models.heads import classifier
from tl_jax.pretrained import load, save
from tl_jax.rules import paths


def write(folder: Path, model_type: str, rng: np.random.Generator, seed: int, **given: Any) -> Path:
    """A folder as transformers writes it."""
    reference_model(model_type, draw(model_type, rng, **given), seed).save_pretrained(folder)
    return folder


def tokens_for(model: Model, rng: np.random.Generator) -> dict[str, np.ndarray]:
    mask = np.arange(6) < np.asarray([6, 1, 4])[:, None]
    return {"tokens": rng.integers(0, model.info.config["vocab_size"], mask.shape).astype(np.int32), "mask": mask}


def assert_computes_as_transformers(folder: Path, rng: np.random.Generator, variables: Any = None) -> None:
    """Our logits are those of the class of transformers that the folder names."""
    import torch
    import transformers

    model, loaded = load(folder)
    batch = tokens_for(model, rng)
    reference = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        theirs = reference(torch.tensor(batch["tokens"]).long(), torch.tensor(batch["mask"]).long()).logits.numpy()
    found = outputs(model, loaded if variables is None else variables, batch)["logits"]
    assert relative(np.asarray(found)[batch["mask"]], theirs[batch["mask"]]) <= PARITY


@pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen2", "qwen3", "smollm3"])
@pytest.mark.parametrize("tied", [False, True])
def test_a_language_model_comes_and_goes(model_type, tied, tmp_path, rng, seed):
    folder = write(tmp_path / "theirs", model_type, rng, seed, tie_word_embeddings=tied)
    model, variables = load(folder)
    assert model.names[-2:] == ("norm", "head") and model.info.pooling == "none"
    assert set(paths(variables)) == set(model.info.names) and not model.info.carried
    assert_computes_as_transformers(folder, rng)
    out = save(tmp_path / "ours", model, variables)
    assert_same_tensors(out, folder)
    config, theirs = (json.loads((place / "config.json").read_text()) for place in (out, folder))
    assert config == theirs and (out / "generation_config.json").is_file()
    trained = perturbed(variables)
    again = save(tmp_path / "trained", model, trained)
    assert_computes_as_transformers(again, rng, trained)
    assert_same_bits(load(again)[1], trained)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_dtypes_survive(dtype, tmp_path, rng, seed):
    import torch

    raw = draw("llama", rng)
    reference_model("llama", raw, seed).to(getattr(torch, dtype)).save_pretrained(tmp_path / "theirs")
    assert_same_tensors(save(tmp_path / "ours", *load(tmp_path / "theirs")), tmp_path / "theirs")


def test_a_model_without_its_prefix_and_without_a_head(tmp_path, rng, seed):
    """LlamaModel's file: read as what comes below a classifier, or for a head that is tied, as a language model."""
    reference = reference_model("llama", draw("llama", rng, tie_word_embeddings=True), seed)
    reference.model.save_pretrained(tmp_path / "base")
    assert set(tensors_of(tmp_path / "base")) == {n.removeprefix("model.") for n, _ in reference.named_parameters()}
    model, variables = load(tmp_path / "base")
    assert model.names[-1] == "pooler" and model.info.pooling == "last"
    assert_same_tensors(save(tmp_path / "out", model, variables), tmp_path / "base")
    whole, same = load(tmp_path / "base", pooling="none")
    out = save(tmp_path / "whole", whole, same)
    assert json.loads((out / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]
    assert_computes_as_transformers(out, rng, same)


def test_a_classifier_on_a_decoder_comes_back(tmp_path, rng, seed):
    folder = write(tmp_path / "theirs", "qwen2", rng, seed, tie_word_embeddings=False)
    model, variables = load(folder, pooling="last")
    assert set(model.info.carried) == {"lm_head.weight"}
    model = model.attach(classifier(3, model.info.config))
    width = model.info.config["hidden_size"]
    head = {"kernel": rng.normal(size=(width, 3)).astype(np.float32), "bias": rng.normal(size=3).astype(np.float32)}
    variables = {"params": {**variables["params"], "head": head}}
    out = save(tmp_path / "out", model, variables, labels=("a", "b", "c"))
    again, same = load(out)
    assert again.info.labels == ("a", "b", "c") and again.info.pooling == "last"
    batch = tokens_for(model, rng)
    ours, theirs = (outputs(*pair, batch)["logits"] for pair in ((again, same), (model, variables)))
    assert relative(ours, theirs) == 0


def test_tied_weights_that_a_file_repeats_stay_one(tmp_path, rng, seed):
    """As pickles have them: what is written has the copy too, and the copy is of what was trained."""
    folder = write(tmp_path / "theirs", "llama", rng, seed, tie_word_embeddings=True)
    rewrite(folder, lambda n: n, **{"lm_head.weight": tensors_of(folder)["model.embed_tokens.weight"].numpy()})
    model, variables = load(folder)
    assert model.info.copies == {"lm_head.weight": "embeddings/token/embedding"} and not model.info.carried
    assert_same_tensors(save(tmp_path / "same", model, variables), folder)
    trained = perturbed(variables)
    out = save(tmp_path / "trained", model, trained)
    assert (tensors_of(out)["lm_head.weight"] == tensors_of(out)["model.embed_tokens.weight"]).all()
    assert_computes_as_transformers(out, rng, trained)


def test_tied_weights_that_differ_are_told(tmp_path, rng, seed):
    folder = write(tmp_path / "theirs", "llama", rng, seed, tie_word_embeddings=True)
    other = tensors_of(folder)["model.embed_tokens.weight"].numpy() + 1
    rewrite(folder, lambda n: n, **{"lm_head.weight": other})
    with pytest.raises(
        InputError, match=r'lm_head.weight in the file is another tensor: set "tie_word_embeddings" to fal'
    ):
        load(folder)
    set_json(folder / "config.json", tie_word_embeddings=False)
    assert_computes_as_transformers(folder, rng)


def test_early_files_hold_frequencies_and_early_keys(tmp_path, rng, seed):
    later = {"rope_type": "default", "rope_theta": 50.0}
    folder = write(tmp_path / "theirs", "llama", rng, seed, rope_parameters=later, rope_scaling=None)
    before = load(folder)[0]
    set_json(folder / "config.json", rope_parameters=None, rope_theta=50.0, rope_scaling=None, dtype=None)
    set_json(folder / "config.json", torch_dtype="float32")
    pickle_weights(folder)
    extra = "model.layers.0.self_attn.rotary_emb.inv_freq"
    import torch

    tensors = torch.load(folder / "pytorch_model.bin")
    torch.save({**tensors, extra: torch.ones(2)}, folder / "pytorch_model.bin")
    model, variables = load(folder)
    assert model == before and set(model.info.carried) == {extra}
    assert_computes_as_transformers(save(tmp_path / "ours", model, variables), rng, variables)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"labels": ("a", "b")}, "labels belong to a classifier, and this is a language model"),
        ({"format": "sentence-transformers"}, "cannot hold a language model: --format hf does"),
    ],
)
def test_what_a_language_model_is_not(options, said, tmp_path, rng, seed):
    pair = load(write(tmp_path / "theirs", "llama", rng, seed))
    with pytest.raises(InputError, match=said):
        save(tmp_path / "out", *pair, **options)


def test_a_head_asked_for_must_be_there(tmp_path, rng, seed):
    reference = reference_model("llama", draw("llama", rng, tie_word_embeddings=False), seed)
    reference.model.save_pretrained(tmp_path / "base")
    with pytest.raises(InputError, match=r"missing \(1\):\n  lm_head.weight"):
        load(tmp_path / "base", pooling="none")
