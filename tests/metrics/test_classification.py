from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, precision_recall_fscore_support

from tl_jax.errors import InputError
from tl_jax.metrics import Classification

NAMES = ("no", "yes", "maybe", "never")


def score(targets, predictions, weights, cuts=(), extra=None):
    """The sums of the rows cut into batches at `cuts`, merged."""
    empty = Classification(NAMES, extra=extra)
    total = empty
    for rows in np.split(np.arange(len(targets)), sorted(cuts)):
        logits = np.eye(len(NAMES), dtype=np.float32)[predictions[rows]]
        batch = {"targets": targets[rows].astype(np.int32), "weights": weights[rows].astype(np.float32)}
        total = total.merge(empty.update({"logits": logits}, batch))
    assert not empty.confusion.any()  # nothing changes in place
    return total


CASES = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 3), st.sampled_from([0, 1, 1, 1])), min_size=1, max_size=60
)


@settings(deadline=None)
@given(CASES, st.sampled_from([1.0, 0.75]))
def test_equal_to_scikit_learn(cases, scale):
    targets, predictions, weights = np.array(cases).T
    weights = weights * (1 + (scale - 1) * (targets == 0))  # fractional weights, too
    if not weights.any():
        return
    total = score(targets, predictions, weights)
    result = total.result()
    known = {"labels": range(4), "sample_weight": weights, "zero_division": 0}
    assert result["accuracy"] == pytest.approx(accuracy_score(targets, predictions, sample_weight=weights), abs=1e-9)
    assert result["macro_f1"] == pytest.approx(f1_score(targets, predictions, average="macro", **known), abs=1e-9)
    theirs = np.array(precision_recall_fscore_support(targets, predictions, **known)).T
    ours = [[result["per_class"][n][k] for k in ("precision", "recall", "f1", "support")] for n in NAMES]
    np.testing.assert_allclose(np.array(ours, float), theirs, rtol=0, atol=1e-9)
    matrix = confusion_matrix(targets, predictions, labels=range(4), sample_weight=weights)
    np.testing.assert_allclose(total.confusion, matrix, rtol=0, atol=1e-9)
    assert json.loads(json.dumps(result)) == result


@settings(deadline=None)
@given(CASES, st.lists(st.integers(0, 60), max_size=8))
def test_any_cut_into_batches_gives_the_same(cases, cuts):
    targets, predictions, weights = np.array(cases).T
    if not weights.any():
        return
    extra = {"mean_target": lambda outputs, batch: (batch["targets"].sum(), len(batch["targets"]))}
    cuts = [min(cut, len(targets)) for cut in cuts]
    whole, parts = (score(targets, predictions, weights, c, extra).result() for c in ((), cuts))
    assert parts == whole
    assert whole["mean_target"] == pytest.approx(np.average(targets, weights=weights), abs=1e-12)


def test_rows_of_padding_never_count_even_when_nan():
    logits = np.array([[2, 1, 0, 0], [np.nan] * 4], np.float32)
    extra = {"margin": lambda outputs, batch: (outputs["logits"].max(), 1.0)}
    metrics = Classification(NAMES, extra=extra)
    batch = {"targets": np.array([0, 99]), "weights": np.array([1.0, 0.0], np.float32)}
    result = metrics.update({"logits": logits}, batch).result()
    assert result["accuracy"] == 1 and result["margin"] == 2
    only_padding = metrics.update({"logits": logits[1:]}, {"targets": np.array([0]), "weights": np.zeros(1)})
    assert not only_padding.confusion.any()


def test_predictions_may_be_given_and_micro_batches_too():
    batch = {"targets": np.array([[0, 1], [2, 3]]), "weights": np.ones((2, 2))}
    result = Classification(NAMES).update({"predictions": np.array([[0, 1], [2, 2]])}, batch).result()
    assert result["accuracy"] == 0.75
    assert result["per_class"]["yes"] == {"precision": 1.0, "recall": 1.0, "f1": 1.0, "support": 1}


def test_the_first_of_equal_logits_is_the_prediction():
    batch = {"targets": np.array([1]), "weights": np.ones(1)}
    assert Classification(NAMES).update({"logits": np.array([[0, 1, 1, 1.0]])}, batch).result()["accuracy"] == 1


def test_mistakes():
    batch = {"targets": np.array([4]), "weights": np.ones(1)}
    with pytest.raises(ValueError, match="the target 4 is none of the 4 classes"):
        Classification(NAMES).update({"predictions": np.array([0])}, batch)
    with pytest.raises(ValueError, match="the prediction -1 is none"):
        Classification(NAMES).update({"predictions": np.array([-1])}, {**batch, "targets": np.array([0])})
    with pytest.raises(ValueError, match="no example was scored"):
        Classification(NAMES).result()
    with pytest.raises(InputError, match="the metric 'accuracy' needs another name"):
        Classification(NAMES, extra={"accuracy": lambda outputs, batch: (0, 1)})
    with pytest.raises(ValueError, match="same labels"):
        Classification(NAMES).merge(Classification(NAMES[:2]))
