"""From opened files to what a run trains on, chooses its best checkpoint by, and is scored on at the end."""

from __future__ import annotations

from typing import NamedTuple

from tl_jax.data.columns import (
    Columns,
    infer_columns,
    infer_completions,
    infer_image_columns,
    pictures,
    texts,
    with_pictures,
)
from tl_jax.data.dataset import Dataset
from tl_jax.data.labels import class_names, class_numbers, label_texts
from tl_jax.data.opening import Splits
from tl_jax.data.splits import fraction as fraction_of
from tl_jax.data.splits import holdout
from tl_jax.data.splits import shots as shots_of
from tl_jax.errors import InputError


class Division(NamedTuple):
    """The parts of a run's data, None where there is none; `notes` are sentences to print."""

    columns: Columns
    labels: tuple[str, ...]
    train: Dataset
    validation: Dataset | None
    test: Dataset | None
    notes: tuple[str, ...]


def divide(
    data: Splits,
    eval_data: Splits | None = None,
    *,
    split: str | None = None,
    text_column: str | None = None,
    label_column: str | None = None,
    shots: int | None = None,
    fraction: float | None = None,
    seed: int = 0,
    image_column: str | None = None,
    images: bool = False,
    labelled: bool = True,
) -> Division:
    """Divide labelled data, texts or `images`; or (not `labelled`) texts or prompts with their completions, which have
    no classes.

    Training takes the split `split` (the one named train, or the only one). Validation is the split of that name, else
    a tenth of training held out by hash; `shots` and `fraction` are drawn from what is left, so no draw contains a
    validation example. The test set is `eval_data`, else the split named test. Raises `InputError` for columns that do
    not exist, a single class, and labels in validation or test that training never saw.
    """
    if shots is not None and not labelled:
        raise InputError("--shots counts examples of a class, and texts have none: --fraction takes a share of them")
    name = split or ("train" if "train" in data else "")
    whole = data[name] if name else data.only
    if whole is data.get("validation"):
        asked = "there is only a split named validation" if split is None else f"--split {split}"
        raise InputError(f"{asked}: the validation split chooses the best checkpoint and cannot be trained on")
    if split is None and whole is data.get("test"):
        raise InputError(f"{data.source} has only a split named test: --split test trains on it")
    validation, test = data.get("validation"), data.get("test")
    test = to_score(eval_data) if eval_data is not None else None if test is whole else test
    columns: Columns
    if images:
        columns = infer_image_columns(whole, image_column, label_column)
        whole = with_pictures(whole, columns.input)
        validation, test = (None if part is None else with_pictures(part, columns.input) for part in (validation, test))
    else:
        columns = (infer_columns if labelled else infer_completions)(whole, text_column, label_column)
    class_column = columns.label if labelled else None
    labels = class_names(label_texts(whole, class_column), whole.source) if class_column is not None else ()
    notes: list[str] = []
    train = whole
    if validation is None:
        seen = pictures(whole, columns.input) if images else None
        held = holdout(whole, columns.input, class_column, images=seen)
        train, notes = whole.select(held.train), [*held.notes]
        validation = whole.select(held.validation) if len(held.validation) else None
    if shots is not None or fraction is not None:
        known = [""] * len(train) if class_column is None else label_texts(train, class_column)
        chosen = shots_of(known, shots, seed) if shots is not None else fraction_of(known, fraction or 0.0, seed)
        train, notes = train.select(chosen.indices), [*notes, *chosen.notes]
    for part in (validation, test):
        if part is not None and class_column is not None:
            class_numbers(label_texts(part, class_column), labels, part.source)
        elif part is not None:
            for column in filter(None, columns[:2]):
                texts(part, column)
    return Division(columns, labels, train, validation, test, tuple(notes))


def to_score(splits: Splits) -> Dataset:
    """The split that is scored: the one named test, or the only one there is."""
    return splits["test"] if len(splits) > 1 and "test" in splits else splits.only
