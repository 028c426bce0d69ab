from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.models.test_families import SMALLEST
from tl_jax.models.bert import NAMES
from tl_jax.models.families import FAMILIES
from tl_jax.models.families import names as names_of
from tl_jax.models.names import Entry, NameMap, batch_norm, convolution, dense

WORD = st.from_regex(r"[a-zA-Z_]{1,6}", fullmatch=True)


@pytest.mark.parametrize("model_type", FAMILIES)
@given(st.data(), st.integers(0, 300), st.booleans())
def test_the_names_of_a_family_are_two_way(model_type: str, data: st.DataObject, i: int, of_classifier: bool) -> None:
    names = names_of({"model_type": model_type, **SMALLEST.get(model_type, {})})
    entry = data.draw(st.sampled_from(names.classifier if of_classifier else names.entries))
    prefix = data.draw(st.sampled_from(["", *names.prefixes]))
    path = entry.canonical.format(i=i)
    name, transform = names.to_foreign(path, prefix, classifier=of_classifier) or ("", "")
    assert (name.removeprefix(prefix), transform) == (entry.foreign.format(i=i), entry.transform)
    assert names.to_canonical(name) == (path, transform)
    assert names.is_classifiers(name) == of_classifier and not names.is_ignored(name)
    front = name.removesuffix(entry.foreign.format(i=i))
    for older in entry.older:
        assert names.to_canonical(front + older.format(i=i)) == (path, transform)
    spellings = names.spellings(path)
    assert {one.format(i=i) for one in (entry.foreign, *entry.older)} <= set(spellings)
    assert all(names.to_canonical(one) == (path, transform) for one in spellings)


@st.composite
def maps(draw: st.DrawFn) -> NameMap:
    """Any map whose names differ by a word, with or without a number in them."""
    words = draw(st.lists(WORD, min_size=2, max_size=12, unique=True))
    numbered = draw(st.lists(st.booleans(), min_size=len(words), max_size=len(words)))
    entries = tuple(
        Entry(
            f"block.{{i}}.{w}.weight" if n else f"{w}.weight", f"{w}_{{i}}/kernel" if n else f"{w}/kernel", "transpose"
        )
        for w, n in zip(words, numbered, strict=True)
    )
    at = draw(st.integers(0, len(entries)))
    return NameMap(entries[:at], entries[at:], prefixes=draw(st.sampled_from([(), ("model.",), ("x.y.", "x.")])))


@given(maps(), st.integers(0, 10**6), st.data())
def test_any_map_is_two_way(names: NameMap, i: int, data: st.DataObject) -> None:
    prefix = data.draw(st.sampled_from(["", *names.prefixes]))
    for entry in (*names.entries, *names.classifier):
        path = entry.canonical.format(i=i)
        name, _ = names.to_foreign(path, prefix) or ("", "")
        assert name == (prefix if entry in names.entries else "") + entry.foreign.format(i=i)
        assert names.to_canonical(name) == (path, "transpose")


def test_the_head_lies_outside_of_the_prefix() -> None:
    assert NAMES.to_foreign("head/kernel", "bert.") == ("classifier.weight", "transpose")
    assert NAMES.to_foreign("pooler/dense/kernel", "bert.") == ("bert.pooler.dense.weight", "transpose")
    assert NAMES.to_canonical("bert.classifier.weight") is None


@pytest.mark.parametrize(
    "name",
    [
        "encoder.layer.3.attention.self.query",  # a module, not a tensor
        "encoder.layer.03.attention.self.query.weight",  # nobody writes numbers so, and it would not come back
        "encoder.layer.x.attention.self.query.weight",
        "encoder_layer.3.attention.self.query.weight",  # the dot is a dot
        "roberta.encoder.layer.3.attention.self.query.weight",
        "bert.bert.pooler.dense.weight",
        "",
    ],
)
def test_other_names_are_not_the_familys(name: str) -> None:
    assert NAMES.to_canonical(name) is None
    assert NAMES.prefix(name) == ""


@pytest.mark.parametrize(
    "path", ["layers_3/attention/query", "layers_03/mlp/up/kernel", "norm/scale", "head/dense/kernel"]
)
def test_other_paths_are_not_the_familys(path: str) -> None:
    assert NAMES.to_foreign(path) is None


def test_prefix_says_which_one_a_name_carries() -> None:
    assert NAMES.prefix("bert.pooler.dense.weight") == "bert."
    assert NAMES.prefix("pooler.dense.weight") == ""
    assert NAMES.prefix("bert.embeddings.position_ids") == "bert."


def test_ignored_names_match_whole_and_behind_a_prefix() -> None:
    assert NAMES.is_ignored("embeddings.position_ids") and NAMES.is_ignored("bert.embeddings.position_ids")
    assert not NAMES.is_ignored("embeddings.position_ids_2")


@pytest.mark.parametrize(
    ("text", "ours"),
    [
        ("encoder.layer.3", "layers_3"),
        ("bert.encoder.layer.3.attention.self.query", "layers_3/attention/query"),
        ("bert.encoder.layer.11.output.dense.weight", "layers_11/mlp/down/kernel"),
        ("encoder/layer/3", "layers_3"),
        ("encoder.layer.3.attention.output", "layers_3"),  # the projection and its norm: apart here
        ("layer.3", "layers_3"),
        ("encoder", "layers_i"),
        ("attention.self.query", "layers_i/attention/query"),
        ("embeddings.word_embeddings", "embeddings/token"),
        ("embeddings.LayerNorm.gamma", "embeddings/norm/scale"),
        ("classifier", "head"),
    ],
)
def test_alias_understands_parts_of_foreign_names(text: str, ours: str) -> None:
    assert NAMES.alias(text) == ours


@pytest.mark.parametrize(
    "text",
    [
        "",
        "weight",
        "output",
        "LayerNorm",
        "encoder.layer.3.att",
        "encoder.layer.x",
        "layers_3/attention",
        "pooler",
        "q_lin",
    ],
)
def test_alias_is_none_for_what_is_ours_vague_or_unknown(text: str) -> None:
    assert NAMES.alias(text) is None


def test_two_entries_may_not_claim_one_name() -> None:
    with pytest.raises(ValueError, match=r"two entries: a\.weight"):
        NameMap((Entry("a.weight", "a/kernel"), Entry("b.weight", "b/kernel", older=("a.weight",))))
    with pytest.raises(ValueError, match="two entries: a/kernel"):
        NameMap((Entry("a.weight", "a/kernel"), Entry("b.weight", "a/kernel")))
    with pytest.raises(ValueError, match=r"two entries: a\.weight"):
        NameMap((Entry("a.weight", "a/kernel"),), (Entry("a.weight", "head/kernel"),))


def test_a_path_may_have_another_name_in_a_classifiers_file() -> None:
    names = NameMap((*dense("pooler.dense", "pooler/dense"),), dense("classifier.dense", "pooler/dense"), ("x.",))
    path = "pooler/dense/kernel"
    assert names.to_foreign(path, "x.") == ("x.pooler.dense.weight", "transpose")
    assert names.to_foreign(path, "x.", classifier=True) == ("classifier.dense.weight", "transpose")
    both = ("x.pooler.dense.weight", "classifier.dense.weight")
    assert [names.to_canonical(name) for name in both] == [(path, "transpose")] * 2
    assert [names.gives_way(name, both) for name in both] == [True, False]
    assert not names.gives_way(both[0], both[:1]) and not names.gives_way("stranger", both)
    assert [names.is_classifiers(name) for name in (*both, "x.classifier.dense.weight")] == [False, True, False]


def test_a_map_without_numbers_is_looked_up_by_equality() -> None:
    """A deep ResNet's map has thousands of entries; dots are dots, and a path may have two names."""
    names = NameMap(
        (*batch_norm("a.norm", "blocks_0/norm_1", "layer1.0.bn1"), convolution("a.conv", "blocks_0/conv_1", "c")),
        dense("last.1", "head", "fc"),
        ("net.",),
    )
    assert names.to_canonical("net.layer1.0.bn1.running_var") == ("batch_stats/blocks_0/norm_1/var", "copy")
    assert names.to_canonical("c.weight") == ("blocks_0/conv_1/kernel", "conv")
    assert names.to_canonical("aXnorm.weight") is None and names.to_canonical("net.fc.weight") is None
    assert names.to_foreign("batch_stats/blocks_0/norm_1/mean", "net.") == ("net.a.norm.running_mean", "copy")
    assert names.to_foreign("head/kernel", "net.") == ("last.1.weight", "transpose")
    assert names.is_classifiers("fc.bias") and not names.is_classifiers("c.weight")


def test_alias_of_a_module_with_statistics() -> None:
    names = NameMap(batch_norm("a.0.norm", "blocks_0/norm_1", "bn1"))
    assert names.alias("a.0") == names.alias("bn1") == names.alias("a.0.norm") == "blocks_0/norm_1"
    assert names.alias("bn1.running_mean") == "batch_stats/blocks_0/norm_1/mean"
