"""One label for each example, whatever the examples are: what the tasks of texts and of images share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from tl_jax import metrics as metrics_room
from tl_jax.errors import InputError
from tl_jax.model import Model
from tl_jax.models.heads import classifier

Loss = Callable[[Array, Array], Array]
Metric = Callable[[Mapping[str, Any], Mapping[str, Any]], tuple[Any, Any]]


def cross_entropy(logits: Array, targets: Array) -> Array:
    """Softmax cross-entropy: `logits` f32 `[N, labels]`, `targets` i32 `[N]` to `[N]`."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets)


@dataclass(frozen=True)
class Classification:
    """Tell examples apart by `labels`.

    Attributes:
        labels: the class names, in the order of the logits; None until the data say.
        loss: `(logits [N, labels] f32, targets [N] i32) -> losses [N]`, traceable by jax; None is cross-entropy.
        metrics: `((name, function), …)` or a dict; a function takes (outputs, batch) as numpy arrays and returns
            (sum, weight). They are reported beside accuracy, macro-F1 and the per-class figures.
    """

    labels: tuple[str, ...] | None = None
    loss: Loss | None = None
    metrics: tuple[tuple[str, Metric], ...] = ()

    name: ClassVar[str]
    reads: ClassVar[str]  # the state key that its models start from
    pooling: ClassVar[str] = "auto"  # what --pooling auto is for it
    monitor: ClassVar[str] = "accuracy"  # what the best checkpoint is best at; of equal ones the later

    def __post_init__(self) -> None:
        if isinstance(self.metrics, Mapping):
            object.__setattr__(self, "metrics", tuple(self.metrics.items()))
        if self.labels is not None:
            object.__setattr__(self, "labels", tuple(str(label) for label in self.labels))
            if len(self.labels) < 2:
                raise InputError(f"classification needs two labels or more, not {list(self.labels)}")

    def with_labels(self, labels: tuple[str, ...]) -> Self:
        """The same task, with its labels known."""
        return replace(self, labels=tuple(labels))

    def attach(self, model: Model) -> Model:
        """The model with a `head` stage for these labels; a head it already has for other labels is replaced.

        A head with the same labels in the same order stays, trained weights and all; somebody's own network that writes
        logits is its own head.
        """
        if self.labels is None:
            raise InputError(f"the task has no labels yet: {type(self).__name__}(labels=[…])")
        if "head" not in model.names and "logits" in model.stages[-1].writes:
            return replace(model, info=replace(model.info, labels=self.labels))
        if model.by_token:
            raise InputError(
                "this is a language model: --pooling last classifies texts by their last token, and --task causal_lm "
                "continues them"
            )
        if not any("pooled" in stage.writes for stage in model.stages):
            raise InputError(
                f"{self.name.replace('_', ' ')} needs a model that writes pooled, as a 'pooler' does; "
                f"this has {model.names}"
            )
        if "head" in model.names and model.info.labels == self.labels:
            return model
        head = classifier(len(self.labels), model.info.config)
        attached = model.attach(head, at="head" if "head" in model.names else None)
        return replace(attached, info=replace(model.info, labels=self.labels))

    def without_old_head(self, model: Model, variables: Mapping[str, Any]) -> dict[str, Any]:
        """The variables without those of a head that `attach` replaces."""
        if "head" not in model.names or model.info.labels == self.labels:
            return dict(variables)
        return {**variables, "params": {k: v for k, v in variables["params"].items() if k != "head"}}

    def total_loss(self, outputs: Mapping[str, Array], batch: Mapping[str, Array]) -> tuple[Array, Array]:
        """(sum of the losses, number of examples) of a batch; rows of padding (weight 0) count nothing."""
        if self.labels is not None and outputs["logits"].shape[-1] != len(self.labels):
            raise InputError(
                f"the model writes {outputs['logits'].shape[-1]} logits for {len(self.labels)} labels; "
                "if they are features, say writes='pooled', and the task puts a head on them"
            )
        losses = (self.loss or cross_entropy)(outputs["logits"], batch["targets"])
        weights = batch["weights"]
        if losses.shape != weights.shape:
            raise InputError(f"the loss must return one number per example, {weights.shape}, not {losses.shape}")
        return jnp.sum(jnp.where(weights > 0, losses * weights, 0.0)), jnp.sum(weights)

    def new_metrics(self) -> metrics_room.Classification:
        """Empty sums of this task's metrics."""
        return metrics_room.Classification(self.labels or (), extra=dict(self.metrics))

    def decode(self, logits: np.ndarray) -> list[dict[str, Any]]:
        """For each row of `logits` `[N, labels]`: the label and the probability of each."""
        probabilities = np.asarray(jax.nn.softmax(jnp.asarray(logits, jnp.float32), axis=-1))
        labels = self.labels or ()
        return [
            {"label": labels[int(row.argmax())], "probabilities": dict(zip(labels, map(float, row), strict=True))}
            for row in probabilities
        ]
