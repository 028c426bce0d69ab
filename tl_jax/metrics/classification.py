"""Accuracy, macro-F1 and the figures of each class, all from one confusion matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tl_jax.errors import InputError
from tl_jax.metrics.means import Function, Mean

RESERVED = ("accuracy", "macro_f1", "per_class", "loss")


class Classification:
    """Figures of a single-label classifier, equal to scikit-learn's on the same predictions.

    labels: the C class names, in the order of the logits.
    extra: the user's own metrics by name, each as `Mean` takes it; their results stand beside ours.

    `outputs` hold "logits" [B, C] (the first largest is the prediction) or "predictions" int [B]; the batch holds
    "targets" int [B] and "weights" [B] (sample weights; rows of 0 never count, whatever they hold).

    Raises InputError for a metric of the user's that takes one of our names, ValueError for a target or a
    prediction that is not a class.
    """

    confusion: npt.NDArray[np.float64]
    """[C, C]: weight of the examples of each true class (row) predicted as each class (column)."""

    def __init__(self, labels: Sequence[str], *, extra: Mapping[str, Function] | None = None) -> None:
        taken = [name for name in extra or {} if name in RESERVED]
        if taken:
            raise InputError(f"the metric {taken[0]!r} needs another name: {', '.join(RESERVED)} are ours")
        self.labels = tuple(labels)
        self.confusion = np.zeros((len(self.labels), len(self.labels)))
        self._means = {name: Mean(name, function) for name, function in (extra or {}).items()}

    def update(self, outputs: Mapping[str, Any], batch: Mapping[str, Any]) -> Classification:
        """The sums of this batch alone; see `Metrics`."""
        weights = np.asarray(batch["weights"], np.float64)
        real = weights > 0
        predictions = outputs["predictions"] if "predictions" in outputs else np.argmax(outputs["logits"], axis=-1)
        size = len(self.labels)
        rows = self._classes("target", np.asarray(batch["targets"])[real])
        columns = self._classes("prediction", np.asarray(predictions)[real])
        counts = np.bincount(rows * size + columns, weights[real], minlength=size * size).astype(np.float64)
        return self._new(counts.reshape(size, size), {k: m.update(outputs, batch) for k, m in self._means.items()})

    def merge(self, other: Classification) -> Classification:
        """The sums of both."""
        if self.labels != other.labels or self._means.keys() != other._means.keys():
            raise ValueError("only metrics of the same labels and names can be merged")
        means = {name: mean.merge(other._means[name]) for name, mean in self._means.items()}
        return self._new(self.confusion + other.confusion, means)

    def result(self) -> dict[str, Any]:
        """{"accuracy", "macro_f1", "per_class": {label: {"precision", "recall", "f1", "support"}}, …the user's own}.

        A figure whose denominator is 0 is 0 (`zero_division=0`), and macro-F1 is the mean over all labels, also
        those that neither occur nor are predicted (`labels=range(C)`). Support is the number of examples, or their
        weight. Raises ValueError when no example was scored.
        """
        total = self.confusion.sum()
        if total == 0:
            raise ValueError("no example was scored")
        hits, support, predicted = np.diag(self.confusion), self.confusion.sum(axis=1), self.confusion.sum(axis=0)
        precision, recall, f1 = _ratio(hits, predicted), _ratio(hits, support), _ratio(2 * hits, support + predicted)
        per_class = {
            label: {
                "precision": float(precision[k]),
                "recall": float(recall[k]),
                "f1": float(f1[k]),
                "support": int(support[k]) if support[k].is_integer() else float(support[k]),
            }
            for k, label in enumerate(self.labels)
        }
        figures: dict[str, Any] = {"accuracy": float(hits.sum() / total), "macro_f1": float(f1.mean())}
        for mean in self._means.values():
            figures |= mean.result()
        return {**figures, "per_class": per_class}

    def _classes(self, what: str, values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        wrong = values[(values < 0) | (values >= len(self.labels)) | (values % 1 != 0)]
        if len(wrong):
            raise ValueError(f"the {what} {wrong[0]} is none of the {len(self.labels)} classes")
        return values.astype(np.int64)

    def _new(self, confusion: npt.NDArray[np.float64], means: dict[str, Mean]) -> Classification:
        new = Classification(self.labels)
        new.confusion, new._means = confusion, means
        return new


def _ratio(above: npt.NDArray[np.float64], below: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)
