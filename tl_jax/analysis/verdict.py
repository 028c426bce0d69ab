"""What a comparison shows, in sentences.

A sentence says *worth*, *hurts* or *beats* only where the 95 % interval of the paired difference does not hold 0;
else it says that nothing is shown. How many labels scratch would need is said only where the transfer is shown to be
worth something. Differences are of seeds that both methods finished, so an interrupted comparison is judged by what
it has.
"""

from __future__ import annotations

from statistics import fmean

from tl_jax.analysis.intervals import Interval, paired
from tl_jax.analysis.matching import labels_to_match
from tl_jax.analysis.results import Results
from tl_jax.analysis.words import method_words, points, seeds_words, size_words, times


def sentences(results: Results, *, classes: int) -> list[str]:
    """Size by size: what each transfer is worth over scratch, then which is ahead; last, how to read the brackets."""
    if not results.transfers:
        return ["only scratch was run: there is no transfer to judge"]
    found = []
    numbers: list[int] = []  # of seeds, a comparison each
    if results.scratch is None:
        found.append("scratch was not run: what the transfer bought is not known")
    for size in results.sizes:
        if results.scratch is not None:
            for method in results.transfers:
                text, n = _worth(results, method, results.scratch, size, classes)
                found.append(text)
                numbers.append(n)
        if len([method for method in results.transfers if results.of(method, size)]) > 1:
            text, n = _ahead(results, size, classes)
            found.append(text)
            numbers.append(n)
    if any(n > 1 for n in numbers):
        found.append(
            "[…]: the 95 % interval of the difference over the same seeds (Student's t), each by itself; "
            "what other examples to score on would change is not in it"
        )
    if 1 in numbers:
        found.append("one seed gives no interval: whether such a difference is more than chance is not known")
    return found


def _worth(results: Results, method: str, scratch: str, size: int | None, classes: int) -> tuple[str, int]:
    """What a transfer is worth over scratch at a size, and over how many seeds that was seen."""
    who, where = method_words(method), size_words(results, size, classes)
    scores = results.scores(method, size), results.scores(scratch, size)
    difference = paired(*scores, resolution=results.resolution)
    if difference is None:
        return f"{who} and {scratch} have no finished seed in common {where}: nothing can be said", 0
    much, where = points(difference), f"{where} ({seeds_words(difference.n)})"
    if difference.n == 1:
        return f"{who} scored {_apart(difference)} {scratch} {where}", 1
    if difference.sign > 0:
        labels = _label_efficiency(results, method, scratch, size, classes)
        return f"{who} is worth {much} over {scratch} {where}{labels}", difference.n
    if difference.sign < 0:
        return f"the transfer hurts here: {who} is worth {much} against {scratch} {where}", difference.n
    return f"no difference shown between {who} and {scratch} {where}: {much}", difference.n


def _label_efficiency(results: Results, method: str, scratch: str, size: int | None, classes: int) -> str:
    """How many labels scratch needs for the mean score the transfer has at a size where it is shown to be ahead.

    Scratch's curve starts at that size and goes on through the sizes with more labels at which scratch finished every
    seed that is compared, so that a point differs from the next by its labels alone.
    """
    scores = results.scores(method, size)
    seeds = sorted(scores.keys() & results.scores(scratch, size).keys())
    here = results.examples(size)
    larger = [
        other
        for other in results.sizes
        if results.examples(other) > here and results.scores(scratch, other).keys() >= set(seeds)
    ]
    larger.sort(key=results.examples)
    if not larger:
        all_labels = size is None or (None in results.sizes and results.examples(None) <= here)
        return "" if all_labels else "; how many labels scratch would need was not measured"
    curve = [
        (results.examples(other), fmean(results.scores(scratch, other)[seed] for seed in seeds))
        for other in (size, *larger)
    ]
    needed = labels_to_match(curve, fmean(scores[seed] for seed in seeds))
    if needed is None:
        most = size_words(results, larger[-1], classes)
        return f"; not reached by {scratch} {most}" + ("" if larger[-1] is None else ", the most it was compared with")
    if needed < 1.05 * here:
        return f"; {scratch} needs hardly more labels to match"
    return f"; {scratch} needs {times(needed / here)} the labels to match"


def _ahead(results: Results, size: int | None, classes: int) -> tuple[str, int]:
    """Which transfer scored highest at a size and whether it is shown to beat the next, over the seeds all have."""
    where = size_words(results, size, classes)
    scores = {method: results.scores(method, size) for method in results.transfers if results.of(method, size)}
    seeds = sorted(set.intersection(*(set(by_seed) for by_seed in scores.values())))
    names = [method_words(method) for method in scores]
    if not seeds:
        return f"{', '.join(names[:-1])} and {names[-1]} have no finished seed in common {where}", 0
    shared = {method: {seed: by_seed[seed] for seed in seeds} for method, by_seed in scores.items()}
    best, second = sorted(shared, key=lambda method: -fmean(shared[method].values()))[:2]
    difference = paired(shared[best], shared[second], resolution=results.resolution)
    assert difference is not None
    first, then, where = method_words(best), method_words(second), f"{where} ({seeds_words(len(seeds))})"
    if difference.n == 1:
        return f"of the transfers {first} scored {_apart(difference)} the next, {then}, {where}", 1
    if difference.sign > 0:
        return f"of the transfers {first} is ahead {where}: {points(difference)} over the next, {then}", difference.n
    return f"not told apart {where}: the two best transfers, {first} and {then}: {points(difference)}", difference.n


def _apart(difference: Interval) -> str:
    """One seed's difference, as what was seen and no more."""
    much = points(difference)
    if much.startswith("+"):
        return f"{much[1:]} above"
    return f"{much[1:]} below" if much.startswith("−") else "the same as"
