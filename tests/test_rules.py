"""One ordered list of rules decides everything, and cannot lie."""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tl_jax.errors import InputError
from tl_jax.models.bert import NAMES
from tl_jax.rules import REQUIRED, Rule, explain, map_paths, match, optional, paths

TREE = {
    "embeddings": {"token": {"embedding": 0}},
    "layers_0": {"query": {"kernel": 1, "bias": 2}},
    "layers_1": {"query": {"kernel": 3, "bias": 4}},
    "head": {"kernel": 5},
}
ALL = [
    "embeddings/token/embedding",
    "layers_0/query/kernel",
    "layers_0/query/bias",
    "layers_1/query/kernel",
    "layers_1/query/bias",
    "head/kernel",
]


class Pair(NamedTuple):
    first: object
    second: object


def fault(rules, tree=None, **options) -> str:
    with pytest.raises(InputError) as caught:
        match(rules, TREE if tree is None else tree, **options)
    return str(caught.value)


# -- paths and trees ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        ({"b": {"y": 1, "x": 2}, "a": 3}, {"b/y": 1, "b/x": 2, "a": 3}),  # the tree's own order
        ({"params": {"a": {"b": 1}}}, {"a/b": 1}),
        ({"params": {"a": 1}, "batch_stats": {"a": 2}}, {"a": 1, "batch_stats/a": 2}),
        ({"adapters": {"lora": {"head": {"a": 1}}}}, {"adapters/lora/head/a": 1}),
        ({"head": {"params": 1}}, {"head/params": 1}),  # only the leading collection is dropped
        ({"a": [1, (2, 3)]}, {"a/0": 1, "a/1/0": 2, "a/1/1": 3}),
        ({"a": Pair(1, {"b": 2})}, {"a/0": 1, "a/1/b": 2}),
        ({3: {"b": 1}}, {"3/b": 1}),
        ({"a": None, "b": {"c": None, "d": 1}, "e": {}}, {"b/d": 1}),
        ({}, {}),
        (7, {"": 7}),
    ],
)
def test_paths(tree, expected):
    assert list(paths(tree).items()) == list(expected.items())


def test_trees_keep_their_kinds_and_their_holes():
    tree = {"a": [1, None, (2,)], "b": Pair(3, None), "c": {}}
    labels = match([("a/.*", "list")], tree, default="rest")
    assert labels == {"a": ["list", None, ("list",)], "b": Pair("rest", None), "c": {}}
    assert isinstance(labels["b"], Pair)


def test_map_paths_gives_paths_and_leaves():
    assert map_paths(lambda path, leaf: f"{path}={leaf}", {"params": {"a": {"b": 1}}, "x": {"c": 2}}) == {
        "params": {"a": {"b": "a/b=1"}},
        "x": {"c": "x/c=2"},
    }


# -- what is decided ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "default", "expected"),
    [
        ([(".*", "x")], REQUIRED, "xxxxxx"),
        ([(r"head/.*", "h"), (".*", "x")], REQUIRED, "xxxxxh"),
        ([(".*/kernel", "k"), ("head/.*|.*/bias", "h"), (".*", "x")], REQUIRED, "xkhkhk"),
        ([(".*/bias", "b"), ("layers_1/.*", "1"), (".*", "x")], REQUIRED, "xxb1bx"),  # the first match wins
        ([("layers_[01]/.*/kernel", "k")], "-", "-k-k--"),
        ([("head/kernel", "h")], "-", "-----h"),
        ([], "-", "------"),
        ([(".*/(kernel|embedding)", "k")], "-", "kk-k-k"),
    ],
)
def test_the_first_rule_that_matches_the_whole_path_decides(rules, default, expected):
    assert list(paths(match(rules, TREE, default=default)).values()) == list(expected)


@pytest.mark.parametrize("pattern", ["head", "kernel", "/kernel", "layers_0/query", "ead/kernel", "head/kerne"])
def test_a_part_of_a_path_is_no_match(pattern):
    assert "decides nothing: absent" in fault([(pattern, 1)], default=0)


def test_values_may_be_anything():
    value = {"not": "a leaf"}
    labels = match([(r"head/.*", value), (r"layers.*", None)], TREE, default=False)
    assert labels["head"]["kernel"] is value
    assert labels["layers_0"]["query"] == {"kernel": None, "bias": None}
    assert labels["embeddings"]["token"]["embedding"] is False


def test_none_is_a_default_like_any_other():
    assert match([("head/.*", 1)], TREE, default=None)["layers_0"]["query"]["bias"] is None


def test_params_are_bare_and_other_collections_lead():
    tree = {"params": {"head": {"kernel": 1}}, "adapters": {"lora": {"head": {"a": 2}}}}
    labels = match([("head/.*", "base"), ("adapters/lora/.*", "lora")], tree)
    assert labels == {"params": {"head": {"kernel": "base"}}, "adapters": {"lora": {"head": {"a": "lora"}}}}


def test_rules_may_be_an_iterator():
    assert match(iter([(".*", 1)]), {"a": 0}) == {"a": 1}
    assert len(explain(iter([(".*", 1)]), {"a": 0}).rows) == 1


# -- rules that decide nothing ------------------------------------------------------------------------------------


def test_every_leaf_must_be_decided_unless_there_is_a_default():
    message = fault([("head/.*", 1)])
    assert message.startswith("no rule decides 5 of 6 leaves: embeddings/token/embedding, layers_0/query/kernel")
    assert all(path in message for path in ALL[:5])
    assert "…" not in message


def test_of_many_undecided_leaves_five_are_shown():
    message = fault([("head/.*", 1)], tree={"head": {"a": 0}, "x": list(range(9))})
    assert "no rule decides 9 of 10 leaves: x/0, x/1, x/2, x/3, x/4 … (add a rule, or give a default)" in message


def test_an_absent_rule_names_the_nearest_paths():
    message = fault([("layers_1/query/kernl", 1)], default=0)
    assert message == (
        "rule 'layers_1/query/kernl' decides nothing: absent, no path matches; "
        "nearest: layers_1/query/kernel, layers_0/query/kernel, layers_1/query"
    )


def test_an_absent_rule_may_have_meant_a_module():
    assert "nearest: head" in fault([("haed/.*", 1)], default=0)


def test_an_absent_rule_like_nothing_at_all():
    assert fault([("zzzzzzzz", 1)], default=0) == "rule 'zzzzzzzz' decides nothing: absent, no path matches"


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (
            [(".*", 1), ("head/.*", 2)],
            "rule 'head/.*' decides nothing: shadowed, all 1 leaves it matches are decided by the earlier '.*'",
        ),
        (
            [(".*/kernel", 1), ("layers.*/bias", 2), ("layers_0/.*", 3)],
            "rule 'layers_0/.*' decides nothing: shadowed, all 2 leaves it matches are decided by the earlier "
            "'.*/kernel', 'layers.*/bias'",
        ),
    ],
)
def test_a_shadowed_rule_names_the_earlier_ones(rules, message):
    assert fault(rules, default=0) == message


def test_a_rule_that_decides_one_leaf_of_many_is_not_idle():
    rules = [(".*/kernel", 1), ("layers_0/.*", 2)]
    assert list(paths(match(rules, TREE, default=0)).values()) == [0, 1, 2, 1, 0, 1]


def test_the_same_pattern_twice_is_shadowed():
    assert "shadowed" in fault([("head/.*", 1), ("head/.*", 1)], default=0)


def test_optional_rules_may_be_idle():
    rules = [*optional([("conv/.*", 1), Rule("head/.*", 2)]), ("layers.*", 3)]
    assert all(rule.optional for rule in rules[:2])
    assert list(paths(match(rules, TREE, default=0)).values()) == [0, 3, 3, 3, 3, 2]
    assert match(optional([("conv/.*", 1)]), TREE, default=0)["head"]["kernel"] == 0


def test_an_optional_rule_still_shadows():
    assert "shadowed" in fault([*optional([("head/.*", 1)]), ("head/kernel", 2)], default=0)


def test_all_faults_are_listed_at_once():
    lines = fault([("head/.*", 1), ("head/kernel", 2), ("nose/.*", 3)]).splitlines()
    assert len(lines) == 3
    assert "'head/kernel' decides nothing: shadowed" in lines[0]
    assert "'nose/.*' decides nothing: absent" in lines[1]
    assert "no rule decides 5 of 6 leaves" in lines[2]


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("encoder.layer.3", "encoder.layer.3 is layers_3 here"),
        (r"bert\.encoder\.layer\.3\..*", "bert.encoder.layer.3 is layers_3 here"),
        (
            "encoder.layer.1.attention.self.query.weight",
            "encoder.layer.1.attention.self.query.weight is layers_1/attention/query/kernel here",
        ),
        ("classifier.*", "classifier is head here"),
    ],
)
def test_foreign_names_are_answered_with_ours(pattern, said):
    assert fault([(pattern, 1)], default=0, aliases=NAMES.alias).endswith(f"absent, no path matches; {said}")


def test_a_name_unknown_to_the_aliases_gets_the_nearest_paths():
    assert "nearest: head/kernel" in fault([("head/kernels", 1)], default=0, aliases=lambda text: None)


def test_patterns_that_are_no_regular_expressions_are_all_listed():
    lines = fault([("layers_(", 1), (".*", 2), ("*x", 3)]).splitlines()
    assert [line.partition(" is not a regular expression: ")[0] for line in lines] == ["rule 'layers_('", "rule '*x'"]
    with pytest.raises(InputError, match="is not a regular expression"):
        explain([("layers_(", 1)], TREE)


@pytest.mark.parametrize("rule", [("a",), ("a", 1, True), "ab", (1, "a"), ["a", 1], None])
def test_what_is_no_rule(rule):
    assert fault([(".*", 0), rule]).startswith("rule 1 must be a pair (pattern, value), not ")
    with pytest.raises(InputError, match="rule 0 must be a pair"):
        optional([rule])


# -- the table ----------------------------------------------------------------------------------------------------

ARRAYS = {
    "layers_0": {"kernel": np.zeros((4, 5)), "bias": np.zeros(5)},
    "layers_1": {"kernel": np.zeros((4, 5)), "bias": np.zeros(5)},
    "head": {"kernel": np.zeros((5, 2))},
    "scale": 1.0,
    "hole": None,
}


def test_explain_counts_tensors_and_parameters():
    rules = [(".*/bias", "none"), *optional([("conv/.*", "c")]), ("layers_.*", "slow"), ("layers_1/.*", "late")]
    rows = explain(rules, ARRAYS, default="rest").rows
    assert [(r.pattern, r.value, r.tensors, r.parameters) for r in rows] == [
        (".*/bias", "none", 2, 10),
        ("conv/.*", "c", 0, 0),
        ("layers_.*", "slow", 2, 40),
        ("layers_1/.*", "late", 0, 0),
        ("(default)", "rest", 2, 11),
    ]
    assert [row.note for row in rows] == [
        "layers_0/bias …",
        "idle (optional): absent, no path matches",
        "layers_0/kernel …",
        "shadowed, all 2 leaves it matches are decided by the earlier '.*/bias', 'layers_.*'",
        "head/kernel",
    ]


def test_explain_shows_undecided_leaves_without_raising():
    (row, rest) = explain([("head/kernel", 1)], ARRAYS).rows
    assert (row.note, rest.value, rest.tensors, rest.parameters) == ("head/kernel", None, 5, 51)
    assert rest.note.startswith("no rule decides 5 of 6 leaves: layers_0/kernel")


def test_explain_without_leftovers_has_no_default_row():
    assert [row.pattern for row in explain([(".*", 1)], ARRAYS, default=0).rows] == [".*"]


def test_the_table_is_aligned():
    rules = [("layers_.*", "slow"), ("head/.*", "a value")]
    assert str(explain(rules, ARRAYS | {"scale": None})).splitlines() == [
        "rule       value    tensors  parameters",
        "layers_.*  slow           4          50  layers_0/kernel …",
        "head/.*    a value        1          10  head/kernel",
    ]


# -- laws ---------------------------------------------------------------------------------------------------------

NAMES_ = st.sampled_from(["a", "b", "layers_0", "layers_1", "kernel"])
TREES = st.recursive(
    st.one_of(st.integers(0, 9), st.none()),
    lambda inner: st.one_of(
        st.dictionaries(NAMES_, inner, max_size=4), st.lists(inner, max_size=3), st.tuples(inner, inner)
    ),
    max_leaves=12,
).filter(lambda tree: isinstance(tree, dict))
PATTERNS = st.sampled_from(
    [".*", "a", "a/.*", ".*/kernel", "layers_[01]/.*", "b/a|a/b", ".*/(a|b)(/.*)?", "layers_1.*", "[^/]+", ".*0.*"]
)
RULES = st.lists(PATTERNS, max_size=5).map(lambda patterns: [(p, i) for i, p in enumerate(patterns)])


def brute_force(rules, path, default):
    """The definition, read aloud: the value of the first rule whose pattern matches the whole path."""
    for pattern, value in rules:
        if re.fullmatch(pattern, path):
            return value
    return default


@given(RULES, TREES)
def test_law_match_agrees_with_its_definition(rules, tree):
    labels = match(optional(rules), tree, default="default")
    expected = {path: brute_force(rules, path, "default") for path in paths(tree)}
    assert list(paths(labels).items()) == list(expected.items())


@given(RULES, TREES)
def test_law_it_raises_exactly_when_a_rule_or_a_leaf_is_left_over(rules, tree):
    decided = [brute_force(rules, path, None) for path in paths(tree)]
    idle = [i for i, _ in enumerate(rules) if i not in decided]
    if idle or None in decided:
        with pytest.raises(InputError) as caught:
            match(rules, tree)
        lines = str(caught.value).splitlines()
        assert len(lines) == len(idle) + (None in decided)
        for i, line in zip(idle, lines, strict=False):
            taken = any(re.fullmatch(rules[i][0], path) for path in paths(tree))
            assert ("shadowed" if taken else "absent") in line
    else:
        assert list(paths(match(rules, tree)).values()) == decided


@given(RULES, TREES)
def test_law_every_leaf_is_decided_exactly_once(rules, tree):
    decided: list[str] = []
    rows = explain(rules, tree, default="default").rows
    labels = paths(match(optional(rules), tree, default="default"))
    for row in rows:
        decided += [path for path, value in labels.items() if value == row.value]
        assert row.tensors == sum(value == row.value for value in labels.values())
    assert sorted(decided) == sorted(paths(tree))


@given(RULES, TREES, st.sampled_from([REQUIRED, "default"]))
def test_law_the_counts_of_explain_sum_to_the_tree(rules, tree, default):
    rows = explain(rules, tree, default=default).rows
    assert sum(row.tensors for row in rows) == len(paths(tree))
    assert sum(row.parameters for row in rows) == len(paths(tree))  # these leaves are numbers
