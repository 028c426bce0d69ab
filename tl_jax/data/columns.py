"""Which column holds the text or image and which the label: named by the user, known by name, or told by content."""

from __future__ import annotations

from typing import Any, NamedTuple

from tl_jax.data.dataset import Dataset
from tl_jax.errors import InputError
from tl_jax.pictures import SUFFIXES, Picture

# Names in order of preference: an earlier row wins over a later one, two columns of one row are ambiguous.
TEXT_NAMES: tuple[tuple[str, ...], ...] = (
    ("text",),
    ("sentence", "content", "message", "review", "utterance", "question", "query", "comment", "tweet", "post"),
    ("body", "document", "prompt", "input"),
    ("title", "subject", "headline", "description", "summary"),
)
LABEL_NAMES: tuple[tuple[str, ...], ...] = (
    ("label", "labels"),
    ("intent", "category", "class", "sentiment", "target", "topic", "tag", "emotion", "polarity", "output"),
)


IMAGE_NAMES: tuple[tuple[str, ...], ...] = (
    ("image", "images"),
    ("image_path", "img", "img_path", "picture", "photo"),
    ("file_name", "filename", "file", "file_path", "filepath", "path"),
)
# Pairs of names that a prompt and its completion go by, the likelier first.
COMPLETION_NAMES = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("instruction", "response"),
    ("instruction", "output"),
    ("question", "answer"),
    ("input", "output"),
)


class Columns(NamedTuple):
    """The chosen columns (`label` is None where none was asked for) and one line that says which and why.

    `input` is the one that a model reads, and `role` what is in it: "text" or "image". Of examples that are completed,
    `input` is the prompt and `label` the completion.
    """

    input: str
    label: str | None
    explanation: str
    role: str = "text"

    def __str__(self) -> str:
        return self.explanation


def infer_columns(
    dataset: Dataset, text_column: str | None = None, label_column: str | None = None, *, labelled: bool = True
) -> Columns:
    """The text and label columns of `dataset`; a name given by the user is taken as it is.

    Otherwise a column whose name is a usual one is taken, and failing that the content decides. Text: the longest
    column of strings, on average, if no other is even half as long. Label: the only column of strings, integers or
    booleans whose values come back twice on average. With `labelled=False` no label column is looked for.

    Raises InputError for a column that does not exist (with the nearest) and for a choice that is not clear.
    """
    for given in (text_column, label_column):
        if given is not None:
            dataset.column(given)  # raises, naming the nearest
    if text_column is not None and text_column == label_column:
        raise InputError(f"the column {text_column!r} cannot be both the text and the label")
    label, label_how = label_column, "given"
    if label is None and labelled:
        label, label_how = _by_name(dataset, LABEL_NAMES, "label", text_column), "by name"
    text, text_how = text_column, "given"
    if text is None:
        text, text_how = _by_name(dataset, TEXT_NAMES, "text", label), "by name"
    if text is None:
        _check_texts(dataset)
        text, text_how = _text_by_content(dataset, label)
    if label is None and labelled:
        label, label_how = _label_by_content(dataset, text)
    return Columns(text, label, _explain(text, text_how, label, label_how))


def infer_completions(dataset: Dataset, text_column: str | None = None, label_column: str | None = None) -> Columns:
    """The columns of a prompt and of its completion, or that of texts alone.

    Names given by the user are taken as they are: both, or the text's alone. Otherwise a usual pair of names is a
    prompt with its completion, and failing that there are texts, chosen as for `infer_columns`. Raises InputError for a
    column that does not exist (with the nearest), a completion without its prompt, and a choice that is not clear.
    """
    for given in (text_column, label_column):
        if given is not None:
            dataset.column(given)  # raises, naming the nearest
    if label_column is not None:
        if text_column in (None, label_column):
            raise InputError(f"the completions are in {label_column!r}: name the prompts' column with --text-column")
        return Columns(text_column, label_column, f"prompts {text_column!r}, completions {label_column!r} (given)")
    names = {name.strip().lower(): name for name in dataset.columns}
    for prompt, completion in COMPLETION_NAMES if text_column is None else ():
        if prompt in names and completion in names:
            text, label = names[prompt], names[completion]
            return Columns(text, label, f"prompts {text!r}, completions {label!r} (by name)")
    return infer_columns(dataset, text_column, labelled=False)


def infer_image_columns(
    dataset: Dataset, image_column: str | None = None, label_column: str | None = None, *, labelled: bool = True
) -> Columns:
    """The image and label columns of `dataset`, as `infer_columns` does for texts.

    By content the image column is the only one of images, or of strings that all end as the names of images do.
    """
    for given in (image_column, label_column):
        if given is not None:
            dataset.column(given)  # raises, naming the nearest
    if image_column is not None and image_column == label_column:
        raise InputError(f"the column {image_column!r} cannot be both the image and the label")
    image, image_how = image_column, "given"
    if image is None:
        image, image_how = _images_by_content(dataset, label_column)
    label, label_how = label_column, "given"
    if label is None and labelled:
        label, label_how = _by_name(dataset, LABEL_NAMES, "label", image), "by name"
        if label is None:
            label, label_how = _label_by_content(dataset, image)
    return Columns(image, label, _explain(image, image_how, label, label_how, "image"), "image")


def pictures(dataset: Dataset, column: str) -> list[Picture]:
    """The images of a column, paths relative to the folder of the file that names them.

    Raises InputError, naming the line, for a value that is neither an image nor a path.
    """
    values = dataset.column(column)
    for i, value in enumerate(values):
        if not isinstance(value, Picture | str) or value == "":
            what = "an empty string" if value == "" else _kind(value)
            raise InputError(f"{dataset.where(i)}: the image (column {column!r}) is {what}, not a path")
    return [Picture.of(value, dataset.folder) for value in values]


def with_pictures(dataset: Dataset, column: str) -> Dataset:
    """The data set with the images of a column as `Picture`s, so that what is in them counts, and not their paths."""
    return dataset.replaced(column, pictures(dataset, column))


def _images_by_content(dataset: Dataset, label: str | None) -> tuple[str, str]:
    columns = {name: dataset.column(name) for name in dataset.columns if name != label}
    known = [name for name, values in columns.items() if any(isinstance(v, Picture) for v in values)]
    how = "of images"
    if not known:
        named = [c for row in IMAGE_NAMES for c in columns if c.strip().lower() in row]
        known, how = named[:1], "by name"
    if not known:
        known = [name for name, values in columns.items() if values and all(_names_image(v) for v in values)]
        how = "by content"
    if len(known) != 1:
        why = f"columns {', '.join(map(repr, known))} could each be it" if known else "no column holds paths of images"
        raise InputError(_unclear(dataset, "image", why))
    return known[0], how


def _names_image(value: Any) -> bool:
    return isinstance(value, str) and value.lower().endswith(SUFFIXES)


def texts(dataset: Dataset, column: str) -> list[str]:
    """The texts of a column. Raises InputError, naming the line, for a value that is not a string."""
    values = dataset.column(column)
    for i, value in enumerate(values):
        if not isinstance(value, str):
            raise InputError(f"{dataset.where(i)}: the text (column {column!r}) is {_kind(value)}, not a string")
    return values


def _explain(text: str, text_how: str, label: str | None, label_how: str, role: str = "text") -> str:
    if label is None:
        return f"{role} column {text!r} ({text_how})"
    if text_how == label_how:
        return f"{role} column {text!r}, label column {label!r} ({text_how})"
    return f"{role} column {text!r} ({text_how}), label column {label!r} ({label_how})"


def _by_name(dataset: Dataset, names: tuple[tuple[str, ...], ...], role: str, taken: str | None) -> str | None:
    for row in names:
        known = [c for c in dataset.columns if c != taken and c.strip().lower() in row]
        if len(known) > 1:
            raise InputError(_unclear(dataset, role, f"columns {', '.join(map(repr, known))} could each be it"))
        if known:
            return known[0]
    return None


def _check_texts(dataset: Dataset) -> None:
    """Raise `InputError` for a data set of images, whose labels are no texts."""
    if images := [name for name in dataset.columns if any(isinstance(v, Picture) for v in dataset.column(name)[:1])]:
        raise InputError(
            f"{dataset.source}: the column {images[0]!r} holds images, and texts are asked for; images are for a model "
            "that reads them, with --task image_classification"
        )


def _text_by_content(dataset: Dataset, label: str | None) -> tuple[str, str]:
    average: dict[str, float] = {}
    for name in dataset.columns:
        values = dataset.column(name)
        if name != label and values and all(isinstance(v, str) for v in values):
            average[name] = sum(map(len, values)) / len(values)
    if not average:
        raise InputError(_unclear(dataset, "text", "no column holds strings"))
    first, *rest = sorted(average, key=lambda name: -average[name])
    if rest and 2 * average[rest[0]] >= average[first]:
        raise InputError(_unclear(dataset, "text", f"{first!r} and {rest[0]!r} hold texts of similar length"))
    return first, f"by content: {average[first]:.0f} characters on average"


def _label_by_content(dataset: Dataset, text: str) -> tuple[str, str]:
    distinct: dict[str, int] = {}
    for name in dataset.columns:
        values = dataset.column(name)
        if name == text or not all(isinstance(v, str | int) for v in values):
            continue
        count = len({str(v) for v in values})
        if 2 * count <= len(values):
            distinct[name] = count
    if not distinct:
        why = f"no column but {text!r} has few distinct values"
        if len(dataset.columns) == 1:
            why = f"there are only texts, {text!r}, which a language model learns with --task causal_lm"
        raise InputError(_unclear(dataset, "label", why))
    if len(distinct) > 1:
        told = ", ".join(f"{name!r} ({count} values)" for name, count in distinct.items())
        raise InputError(_unclear(dataset, "label", f"it could be any of {told}"))
    ((name, count),) = distinct.items()
    if name in dataset.column(name):  # the header is one of the values: a file without a header
        raise InputError(
            f"{dataset.source}: the first line looks like data, not a header ({name!r} is also a value of its column); "
            "add a line that names the columns, such as text,label"
        )
    return name, f"by content: {count} values"


def _unclear(dataset: Dataset, role: str, why: str) -> str:
    columns = ", ".join(dataset.columns)
    return f"{dataset.source}: which column is the {role}? {why}; name it with --{role}-column (columns: {columns})"


def _kind(value: Any) -> str:
    return {type(None): "missing", bool: "a boolean", int: "a number", float: "a number", list: "a list"}.get(
        type(value), f"a {type(value).__name__}"
    )
