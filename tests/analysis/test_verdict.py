from __future__ import annotations

import random
import re

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from tests.analysis.cells import CLASSES, cell, comparisons, grid
from tl_jax.analysis.results import Result, Results
from tl_jax.analysis.verdict import sentences

LEGEND = (
    "[…]: the 95 % interval of the difference over the same seeds (Student's t), each by itself; "
    "what other examples to score on would change is not in it"
)
ONE_SEED = "one seed gives no interval: whether such a difference is more than chance is not known"


def said(results: Results) -> list[str]:
    return sentences(results, classes=CLASSES)


def around(mean: float) -> list[float]:
    """Three seeds: equal draws make every method a little better or worse."""
    return [mean - 0.01, mean, mean + 0.01]


def wobbly(mean: float) -> list[float]:
    """Three seeds that disagree with `around` by two points either way."""
    return [mean + 0.01, mean, mean - 0.01]


def test_worth_and_label_efficiency() -> None:
    """By hand: scratch goes from 40 to 60 % while labels double, so 50 % is reached at 16·√2: 2.8 times 8."""
    results = grid({"full": {8: wobbly(0.5)}, "scratch": {8: around(0.2), 16: around(0.4), 32: around(0.6)}})
    assert said(results)[0] == (
        "fine-tuning (full) is worth +30 points [25, 35] over scratch at 8 labels a class (3 seeds); "
        "scratch needs about 2.8× the labels to match"
    )
    assert said(results)[-1] == LEGEND


def test_not_reached_with_all_labels() -> None:
    results = grid({"full": {8: around(0.9)}, "scratch": {8: around(0.2), None: around(0.8)}})
    assert said(results)[0].endswith("; not reached by scratch with all 252 labels, 36 a class")


def test_not_reached_with_the_most_that_was_compared() -> None:
    results = grid({"full": {8: around(0.9)}, "scratch": {8: around(0.2), 16: around(0.8)}})
    assert said(results)[0].endswith("; not reached by scratch at 16 labels a class, the most it was compared with")


def test_one_size_measures_no_label_efficiency() -> None:
    (worth, legend) = said(grid({"full": {8: wobbly(0.9)}, "scratch": {8: around(0.2)}}))
    assert worth == (
        "fine-tuning (full) is worth +70 points [65, 75] over scratch at 8 labels a class (3 seeds); "
        "how many labels scratch would need was not measured"
    )
    assert legend == LEGEND


def test_with_all_labels_there_are_no_more_to_need() -> None:
    worth, _ = said(grid({"full": {None: wobbly(0.9)}, "scratch": {None: around(0.2)}}))
    assert (
        worth
        == "fine-tuning (full) is worth +70 points [65, 75] over scratch with all 252 labels, 36 a class (3 seeds)"
    )


def test_hurts_at_every_size_says_nothing_of_labels() -> None:
    results = grid({"full": {8: wobbly(0.1), 16: wobbly(0.2)}, "scratch": {8: around(0.5), 16: around(0.4)}})
    assert said(results) == [
        "the transfer hurts here: fine-tuning (full) is worth −40 points [−45, −35] against scratch "
        "at 8 labels a class (3 seeds)",
        "the transfer hurts here: fine-tuning (full) is worth −20 points [−25, −15] against scratch "
        "at 16 labels a class (3 seeds)",
        LEGEND,
    ]


def test_equal_scores_show_no_difference() -> None:
    results = grid({"full": {8: around(0.5)}, "scratch": {8: around(0.5), 16: around(0.7)}})
    assert said(results)[0] == (
        "no difference shown between fine-tuning (full) and scratch at 8 labels a class (3 seeds): 0 points [0, 0]"
    )


def test_a_mean_ahead_inside_the_interval_is_not_worth_anything() -> None:
    results = grid({"full": {8: [0.5, 0.9, 0.5]}, "scratch": {8: [0.5, 0.2, 0.5], 16: around(0.9)}})
    sentence, *_ = said(results)
    assert sentence.startswith("no difference shown between fine-tuning (full) and scratch at 8 labels a class")
    assert "+23 points [−77, 124]" in sentence
    assert "labels to match" not in sentence


def test_a_curve_that_is_not_monotone_counts_from_the_size_on() -> None:
    """Scratch was better at 8 than at 16, where the transfer is ahead of it; what it needs lies above 16."""
    results = grid({"full": {16: around(0.5)}, "scratch": {8: around(0.6), 16: around(0.3), 64: around(0.7)}})
    assert said(results)[1].endswith("; scratch needs about 2× the labels to match")


def test_hardly_more_labels() -> None:
    results = grid({"full": {8: around(0.201)}, "scratch": {8: around(0.2), 16: around(0.9)}})
    assert said(results)[0].endswith("; scratch needs hardly more labels to match")


def test_all_with_fewer_labels_than_a_size() -> None:
    """64 shots of 36 examples are all of them: no size has more labels, and none is divided by."""
    capped = [
        cell(method, size, seed, score, examples=CLASSES * (8 if size == 8 else 36))
        for method, start in (("full", 0.7), ("scratch", 0.3))
        for size in (8, 64, None)
        for seed, score in enumerate(around(start + (0.1 if size != 8 else 0)))
    ]
    eight, many, everything, legend = said(Results(capped))
    assert eight.endswith("; not reached by scratch with all 252 labels, 36 a class")
    assert many.endswith("over scratch at 64 labels a class, 36 on average (3 seeds)")
    assert everything.endswith("over scratch with all 252 labels, 36 a class (3 seeds)")
    assert legend == LEGEND


def test_unequal_classes_count_what_was_used() -> None:
    """At 64 shots 40 a class were there on average: the factor is 40 over 8, not 64 over 8."""
    used = {8: 8, 64: 40}
    cells = [
        cell(method, size, seed, score, examples=CLASSES * used[size])
        for method, size, mean in (("full", 8, 0.7), ("scratch", 8, 0.3), ("scratch", 64, 0.7))
        for seed, score in enumerate(around(mean))
    ]
    assert said(Results(cells))[0].endswith("; scratch needs about 5× the labels to match")


def test_one_seed_claims_nothing() -> None:
    results = grid({"full": {8: [0.9]}, "lora": {8: [0.8]}, "probe": {8: [0.2]}, "scratch": {8: [0.2], None: [0.95]}})
    assert said(results) == [
        "fine-tuning (full) scored 70 points above scratch at 8 labels a class (1 seed)",
        "fine-tuning (lora) scored 60 points above scratch at 8 labels a class (1 seed)",
        "the linear probe scored the same as scratch at 8 labels a class (1 seed)",
        "of the transfers fine-tuning (full) scored 10 points above the next, fine-tuning (lora), "
        "at 8 labels a class (1 seed)",
        "fine-tuning (full) and scratch have no finished seed in common with all 252 labels, 36 a class: "
        "nothing can be said",
        "fine-tuning (lora) and scratch have no finished seed in common with all 252 labels, 36 a class: "
        "nothing can be said",
        "the linear probe and scratch have no finished seed in common with all 252 labels, 36 a class: "
        "nothing can be said",
        ONE_SEED,
    ]


def test_without_scratch_the_methods_are_compared() -> None:
    results = grid({"full": {8: wobbly(0.9), 16: [0.5, 0.9, 0.7]}, "probe": {8: around(0.5), 16: [0.9, 0.5, 0.6]}})
    first, eight, sixteen, legend = said(results)
    assert first == "scratch was not run: what the transfer bought is not known"
    assert eight == (
        "of the transfers fine-tuning (full) is ahead at 8 labels a class (3 seeds): "
        "+40 points [35, 45] over the next, the linear probe"
    )
    assert sixteen == (
        "not told apart at 16 labels a class (3 seeds): "
        "the two best transfers, fine-tuning (full) and the linear probe: +3 points [−97, 104]"
    )
    assert legend == LEGEND


def test_one_method_without_scratch_and_scratch_alone() -> None:
    assert said(grid({"full": {8: around(0.9)}})) == ["scratch was not run: what the transfer bought is not known"]
    assert said(grid({"scratch": {8: around(0.9)}})) == ["only scratch was run: there is no transfer to judge"]


def test_only_seeds_that_both_finished_count() -> None:
    """An interrupted comparison: seed 2 of scratch is missing, and would have turned the verdict."""
    results = grid({"full": {8: [0.5, 0.6, 0.0]}, "scratch": {8: [0.2, 0.3]}})
    assert said(results)[0].startswith(
        "fine-tuning (full) is worth +30 points [30, 30] over scratch at 8 labels a class (2 seeds)"
    )


def test_the_best_is_chosen_among_the_seeds_that_all_finished() -> None:
    """By its own three seeds the probe would be the best; over the two that both have it is not."""
    results = grid({"full": {8: [0.5, 0.6]}, "probe": {8: [0.4, 0.5, 1.0]}})
    assert said(results)[1] == (
        "of the transfers fine-tuning (full) is ahead at 8 labels a class (2 seeds): "
        "+10 points [10, 10] over the next, the linear probe"
    )
    apart = Results([cell("full", seed=0), cell("probe", seed=1)])
    assert said(apart)[1] == (
        "fine-tuning (full) and the linear probe have no finished seed in common at 8 labels a class"
    )


def test_a_point_of_scratchs_curve_needs_every_seed_compared() -> None:
    """At 16 labels scratch has one lucky seed: that point is not used, and the next one is."""
    scratch = {8: [0.2, 0.2, 0.2], 16: [0.9], 32: [0.6, 0.6, 0.6]}
    results = grid({"full": {8: [0.4, 0.4, 0.4]}, "scratch": scratch})
    assert said(results)[0].endswith("; scratch needs about 2× the labels to match")


# ----------------------------------------------------------------------------------------------------------- the laws


def claims(results: Results) -> dict[tuple[str, int | None], int]:
    """What is claimed of each method over scratch at each size: 1 worth, -1 hurts, 0 nothing; read from the text."""
    found = {}
    names = {"fine-tuning (full)": "full", "fine-tuning (lora:rank=8)": "lora:rank=8", "the linear probe": "probe"}
    for sentence in said(results):
        claim = sentence.partition(";")[0]
        where = re.search(r" at (\d+) label| with all ", claim)
        if where is None or not re.search(r"\bscratch\b", claim):
            continue
        method = next(names[name] for name in names if name in sentence)
        verdict = 1 if "is worth +" in sentence else -1 if sentence.startswith("the transfer hurts here") else 0
        found[method, int(where[1]) if where[1] else None] = verdict
    return found


@given(comparisons())
def test_the_sign_of_every_claim_is_scipys(cells: list[Result]) -> None:
    results = Results(cells)
    claimed = claims(results)
    if results.scratch is not None and results.transfers:
        assert claimed.keys() == {(method, size) for method in results.transfers for size in results.sizes}
    for (method, size), sign in claimed.items():
        one, other = results.scores(method, size), results.scores("scratch", size)
        seeds = sorted(one.keys() & other.keys())
        difference = np.array([one[seed] - other[seed] for seed in seeds])
        if len(seeds) < 2:
            assert sign == 0
        elif np.ptp(difference) < 1e-12:  # scipy divides by the spread
            assert sign == int(difference[0] > 1e-9) - int(difference[0] < -1e-9)
        else:
            bounds = scipy.stats.ttest_rel([one[s] for s in seeds], [other[s] for s in seeds]).confidence_interval(0.95)
            assert sign == int(bounds.low > 0) - int(bounds.high < 0)


@given(comparisons())
def test_labels_are_only_counted_where_the_transfer_is_worth_something(cells: list[Result]) -> None:
    for sentence in said(Results(cells)):
        if "labels to match" in sentence or "not reached" in sentence or "was not measured" in sentence:
            assert " is worth +" in sentence
        if factor := re.search(r"about ([\d.]+)×", sentence):
            assert float(factor[1]) > 1


@given(comparisons(methods=("full", "lora:rank=8", "probe")))
def test_whoever_is_ahead_is_ahead_by_scipy(cells: list[Result]) -> None:
    results = Results(cells)
    names = {"fine-tuning (full)": "full", "fine-tuning (lora:rank=8)": "lora:rank=8", "the linear probe": "probe"}
    for sentence in said(results):
        if " is ahead " not in sentence:
            continue
        found = re.fullmatch(r"of the transfers (.+) is ahead (?:at (\d+) |with ).*over the next, (.+)", sentence)
        assert found is not None
        size = int(found[2]) if found[2] else None
        here = [results.scores(method, size) for method in results.transfers if results.scores(method, size)]
        seeds = sorted(set.intersection(*map(set, here)))
        best, second = (results.scores(names[found[i]], size) for i in (1, 3))
        means = sorted((np.mean([by_seed[s] for s in seeds]) for by_seed in here), reverse=True)
        assert np.mean([best[s] for s in seeds]) == pytest.approx(means[0])
        assert np.mean([second[s] for s in seeds]) == pytest.approx(means[1])
        difference = [best[s] - second[s] for s in seeds]
        assert np.ptp(difference) < 1e-12 or scipy.stats.ttest_1samp(difference, 0).confidence_interval(0.95).low > 0


@given(comparisons(), st.randoms(use_true_random=False))
def test_the_order_of_cells_changes_nothing(cells: list[Result], order: random.Random) -> None:
    assert said(Results(order.sample(cells, len(cells)))) == said(Results(cells))


@given(comparisons(), st.integers(0, 1000))
def test_other_names_for_the_seeds_change_nothing(cells: list[Result], offset: int) -> None:
    moved = [Result(**(c.to_dict() | {"seed": c.seed + offset})) for c in cells]
    assert said(Results(moved)) == said(Results(cells))


@given(comparisons())
def test_half_the_scores_make_the_same_claims_and_need_the_same_labels(cells: list[Result]) -> None:
    half = [Result(**(c.to_dict() | {"score": c.score / 2})) for c in cells]
    assert claims(Results(half)) == claims(Results(cells))
    factors = [re.findall(r"about .*×", sentence) for sentence in said(Results(cells))]
    assert [re.findall(r"about .*×", sentence) for sentence in said(Results(half))] == factors


@given(comparisons())
def test_a_method_more_changes_no_sentence_about_scratch(cells: list[Result]) -> None:
    about = [s for s in said(Results(cells)) if re.search(r"(over|against|above|below|and) scratch ", s)]
    assert set(about) <= set(said(Results([*cells, cell("bitfit", seed=0)])))
