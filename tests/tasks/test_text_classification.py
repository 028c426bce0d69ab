from __future__ import annotations

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from tests import chains
from tl_jax.errors import InputError
from tl_jax.model import Model
from tl_jax.tasks import TASKS, TextClassification, task_class

LABELS = ("a", "b", "c")


def encoder() -> Model:
    """The toy BERT without its head."""
    model = chains.bert()
    return replace(model, stages=model.stages[: model.index("head")])


def test_the_registry_holds_classes() -> None:
    assert task_class("text_classification") is TextClassification
    assert all(isinstance(task_class(name), type) for name in TASKS)


def test_attach_puts_a_head_for_the_labels() -> None:
    attached = TextClassification(LABELS).attach(encoder())
    assert attached.names[-1] == "head" and attached.info.labels == LABELS
    assert attached.shapes()["params"]["head"]["kernel"].shape[-1] == len(LABELS)


def test_a_head_stays_for_the_same_labels_and_is_replaced_for_others(rng: np.random.Generator) -> None:
    task = TextClassification(LABELS)
    model = task.attach(encoder())
    variables = chains.variables(model, rng)
    assert task.attach(model) is model
    assert task.without_old_head(model, variables)["params"].keys() == variables["params"].keys()
    for other in (TextClassification(("c", "b", "a")), TextClassification(("x", "y"))):
        assert other.attach(model).shapes()["params"]["head"]["bias"].shape == (len(other.labels or ()),)
        assert "head" not in other.without_old_head(model, variables)["params"]
    assert "head" in variables["params"]


@pytest.mark.parametrize("labels", [("only",), ()])
def test_one_label_is_no_classification(labels: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match="two labels or more"):
        TextClassification(labels)


def test_without_labels_or_pooler_nothing_is_attached() -> None:
    with pytest.raises(InputError, match="no labels yet"):
        TextClassification().attach(encoder())
    model = encoder()
    with pytest.raises(InputError, match="'pooler'"):
        TextClassification(LABELS).attach(replace(model, stages=model.stages[:-1]))


def test_rows_of_padding_count_nothing_even_when_not_finite() -> None:
    logits = jnp.array([[2.0, 1.0, 0.0], [jnp.nan, 0.0, 0.0]])
    batch = {"targets": jnp.array([1, 0]), "weights": jnp.array([1.0, 0.0])}
    total, weight = TextClassification(LABELS).total_loss({"logits": logits}, batch)
    probability = np.exp(1.0) / np.exp([2.0, 1.0, 0.0]).sum()
    np.testing.assert_allclose(total, -np.log(probability), rtol=1e-6)
    assert float(weight) == 1


def test_a_loss_of_the_users_own_must_be_one_number_an_example() -> None:
    batch = {"targets": jnp.array([1, 0]), "weights": jnp.ones(2)}
    outputs = {"logits": jnp.zeros((2, 3))}
    own = TextClassification(LABELS, loss=lambda logits, targets: targets + 1.0)
    assert float(own.total_loss(outputs, batch)[0]) == 3
    with pytest.raises(InputError, match="one number per example"):
        TextClassification(LABELS, loss=lambda logits, targets: logits).total_loss(outputs, batch)


def test_metrics_may_be_a_dict_and_the_task_compares_by_value() -> None:
    def weight(outputs, batch):
        return batch["weights"], batch["weights"]

    task = TextClassification(list(LABELS), metrics={"weight": weight})
    assert task == TextClassification(LABELS, metrics=(("weight", weight),)) and hash(task) == hash(task)
    found = task.new_metrics().update(
        {"logits": np.eye(3)[[0, 1]]}, {"targets": np.array([0, 2]), "weights": np.ones(2)}
    )
    assert found.result()["weight"] == 1 and found.result()["accuracy"] == 0.5


def test_decoding_gives_labels_and_probabilities() -> None:
    (answer,) = TextClassification(LABELS).decode(np.array([[0.0, np.log(2.0), 0.0]], np.float32))
    assert answer["label"] == "b"
    np.testing.assert_allclose(list(answer["probabilities"].values()), [0.25, 0.5, 0.25], rtol=1e-6)
