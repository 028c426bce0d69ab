"""How much is held at once: the model and two tensors while loading, two tensors while converting, counted in bytes.

`tracemalloc` sees what numpy allocates, and what Python does; files are read into such memory, never mapped.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from tests.parity import assert_same_bits
from tests.pretrained.conftest import Maker, assert_same_tensors, pickle_weights, rewrite, tensors_of
from tl_jax.pretrained import convert, load, save, weights
from tl_jax.rules import map_paths, paths

DESCRIPTIONS = 600_000  # bytes of what says what the model, its files and its tokenizer are
LARGE = {"hidden_size": 96, "num_hidden_layers": 8, "intermediate_size": 2000, "vocab_size": 2000}
LAYOUTS: dict[str, Callable[[Path], Any]] = {
    "safetensors": lambda folder: None,
    "zipped pickle": pickle_weights,
    "older pickle": lambda folder: pickle_weights(folder, legacy=True),
    "pickled shards": lambda folder: pickle_weights(folder, shards=3),
}
# Each layout once, and two of them into numbers of another width.
kinds = pytest.mark.parametrize(
    ("layout", "dtype"), [(layout, None) for layout in LAYOUTS] + [("safetensors", "half"), ("older pickle", "double")]
)
DTYPES = {None: None, "half": "bfloat16", "double": "float64"}


@pytest.fixture
def large(tiny_bert: Maker) -> Callable[[str], Path]:
    """A model of some megabytes, of which the largest tensor is one in fifteen."""

    def make(layout: str) -> Path:
        folder = tiny_bert("BertForMaskedLM", **LARGE)
        LAYOUTS[layout](folder)
        return folder

    return make


def largest_of(tensors: Any) -> int:
    """The bytes of the largest tensor, of which all together have many times as much."""
    each = [a.nbytes for a in tensors.values()]
    assert sum(each) > 10 * max(each) > 10 * DESCRIPTIONS
    return max(each)


def peak(work: Callable[[], Any]) -> tuple[Any, int]:
    """What `work` returns, and the most bytes it held; it runs once before, for what is imported and kept for good."""
    work()
    tracemalloc.start()
    try:
        made = work()
        return made, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@kinds
def test_loading_holds_the_model_and_two_tensors(large: Callable[[str], Path], layout: str, dtype: str | None) -> None:
    folder = large(layout)
    largest = largest_of(weights.read(folder))
    (model, variables), held = peak(lambda: load(folder, dtype=DTYPES[dtype]))
    whole = sum(leaf.nbytes for leaf in (*paths(variables).values(), *model.info.carried.values()))
    assert held < whole + 2 * largest + DESCRIPTIONS


@kinds
def test_converting_holds_two_tensors(
    large: Callable[[str], Path], tmp_path: Path, layout: str, dtype: str | None
) -> None:
    folder, out = large(layout), tmp_path / "out"
    two = largest_of(weights.read(folder)) * {None: 2, "half": 1.5, "double": 3}[dtype]  # one as read, one as written
    _, held = peak(lambda: convert(folder, out, dtype=DTYPES[dtype], max_shard_size="3MB", overwrite=True))
    assert len(list(out.glob("model-*.safetensors"))) > 2
    assert held < two + DESCRIPTIONS
    whole = save(tmp_path / "whole", *load(folder, dtype=DTYPES[dtype]))  # the same, through memory
    assert_same_tensors(out, whole)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_table_that_is_there_twice_is_compared_where_it_lies(tiny_bert: Maker, tmp_path: Path, layout: str) -> None:
    """That of a tied Llama, embedding and head."""
    folder = tiny_bert("LlamaForCausalLM", **LARGE, tie_word_embeddings=True)
    rewrite(folder, str, **{"lm_head.weight": tensors_of(folder)["model.embed_tokens.weight"].numpy()})
    LAYOUTS[layout](folder)
    largest = largest_of(weights.read(folder))
    _, held = peak(lambda: convert(folder, tmp_path / "out", overwrite=True))
    assert held < 2 * largest + DESCRIPTIONS
    model, variables = load(folder)
    assert model.info.copies and not model.info.carried
    assert_same_tensors(tmp_path / "out", save(tmp_path / "whole", model, variables))


def test_saving_holds_two_tensors_beside_the_model(large: Callable[[str], Path], tmp_path: Path) -> None:
    """Arrays that lie as torch's do, and arrays in JAX's own order, which are turned one at a time."""
    model, variables = load(large("safetensors"))
    largest = largest_of(paths(variables))
    for kind, array in (("numpy", np.asarray), ("jax", jnp.asarray)):
        given = map_paths(lambda _, leaf, array=array: array(leaf), variables)
        _, held = peak(lambda kind=kind, given=given: save(tmp_path / kind, model, given, overwrite=True))
        assert held < 2 * largest + DESCRIPTIONS, kind
    assert_same_tensors(tmp_path / "numpy", tmp_path / "jax")


def test_a_converted_model_is_the_model(tiny_bert: Maker, tmp_path: Path) -> None:
    """Converting and saving are one way: names, carried tensors, tokenizer, configuration, head."""
    for kind in ("BertForSequenceClassification", "RobertaForMaskedLM", "DistilBertModel"):
        folder = tiny_bert(kind)
        through, memory = convert(folder, tmp_path / kind), save(tmp_path / f"{kind}-2", *load(folder))
        assert {p.name: p.read_bytes() for p in through.iterdir()} == {p.name: p.read_bytes() for p in memory.iterdir()}
        assert_same_bits(load(through)[1], load(folder)[1])
