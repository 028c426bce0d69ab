from __future__ import annotations

import pytest

from tl_jax.data import Dataset, infer_columns, infer_completions, texts
from tl_jax.errors import InputError

LONG = ["where is my parcel", "I want a refund now", "the card was stolen", "please close the account"]
KINDS = ["a", "b", "a", "b"]


def test_known_names_win():
    found = infer_columns(Dataset({"id": [1, 2, 3, 4], "Message": LONG, "intent": KINDS, "note": LONG}))
    assert (found.input, found.label) == ("Message", "intent")
    assert str(found) == "text column 'Message', label column 'intent' (by name)"


def test_a_better_known_name_wins_over_another():
    found = infer_columns(Dataset({"title": LONG, "text": LONG, "category": KINDS, "label": [0, 1, 2, 3]}))
    assert (found.input, found.label) == ("text", "label")


def test_content_decides_where_names_do_not():
    found = infer_columns(Dataset({"n": [1, 2, 3, 4], "x": LONG, "code": ["p1", "p2", "p3", "p4"], "y": KINDS}))
    assert (found.input, found.label) == ("x", "y")
    assert "(by content: 20 characters on average)" in str(found) and "(by content: 2 values)" in str(found)


def test_the_user_decides_over_names():
    dataset = Dataset({"text": LONG, "label": KINDS, "other": LONG, "class": KINDS})
    found = infer_columns(dataset, "other", "class")
    assert (found.input, found.label) == ("other", "class")
    assert "(given)" in str(found)
    assert infer_columns(dataset, label_column="class").input == "text"
    assert infer_columns(Dataset({"text": LONG, "label": LONG}), text_column="label", labelled=False).label is None


def test_without_labels_none_is_looked_for():
    found = infer_columns(Dataset({"question": LONG}), labelled=False)
    assert found == ("question", None, "text column 'question' (by name)", "text")


@pytest.mark.parametrize(
    ("columns", "given", "message"),
    [
        ({"text": LONG, "label": KINDS}, ("txt", None), "no column 'txt'; did you mean 'text'"),
        ({"text": LONG, "label": KINDS}, (None, "lable"), "no column 'lable'; did you mean 'label'"),
        ({"text": LONG, "label": KINDS}, ("text", "text"), "cannot be both"),
        (
            {"sentence": LONG, "question": LONG, "label": KINDS},
            (None, None),
            "'sentence', 'question' could.*--text-col",
        ),
        ({"text": LONG, "intent": KINDS, "topic": KINDS}, (None, None), "'intent', 'topic' could.*--label-column"),
        ({"x": LONG, "y": LONG, "label": KINDS}, (None, None), "'x' and 'y' hold texts of similar.*--text-column"),
        ({"x": [1, 2, 3, 4], "label": KINDS}, (None, None), "no column holds strings"),
        (
            {"text": LONG, "a": KINDS, "b": KINDS},
            (None, None),
            r"'a' \(2 values\), 'b' \(2 values\); name.*--label-col",
        ),
        ({"text": LONG, "n": [1, 2, 3, 4]}, (None, None), "no column but 'text' has few distinct.*--label-column"),
        ({"text": LONG}, (None, None), r"which column is the label\?.*--label-column"),
        ({"x": LONG, "a": KINDS}, (None, None), "the first line looks like data, not a header.*text,label"),
    ],
)
def test_what_is_not_clear_is_asked_for(columns, given, message):
    with pytest.raises(InputError, match=message):
        infer_columns(Dataset(columns), *given)


def test_texts_must_be_strings():
    dataset = Dataset({"text": ["a", ""], "other": ["a", None], "n": [1, 2]}, source="x.jsonl", lines=[1, 3])
    assert texts(dataset, "text") == ["a", ""]
    with pytest.raises(InputError, match=r"x\.jsonl, line 3: the text \(column 'other'\) is missing"):
        texts(dataset, "other")
    with pytest.raises(InputError, match=r"line 1: .* is a number, not a string"):
        texts(dataset, "n")


# -- completions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "pair"),
    [
        (("Prompt", "completion"), ("Prompt", "completion")),
        (("id", "question", "answer"), ("question", "answer")),
        (("output", "instruction"), ("instruction", "output")),
        (("text", "label"), ("text", None)),
        (("story",), ("story", None)),
    ],
)
def test_prompts_and_completions_are_known_by_name(names, pair):
    found = infer_completions(Dataset({name: LONG if name != "id" else [1, 2, 3, 4] for name in names}))
    assert (found.input, found.label) == pair


def test_prompts_and_completions_can_be_named():
    dataset = Dataset({"prompt": LONG, "completion": LONG, "other": LONG})
    assert infer_completions(dataset, "other", "prompt")[:2] == ("other", "prompt")
    assert infer_completions(dataset, "other")[:2] == ("other", None)
    with pytest.raises(InputError, match="the completions are in 'prompt': name the prompts' column"):
        infer_completions(dataset, None, "prompt")
    with pytest.raises(InputError, match="no column 'promt'; did you mean 'prompt'"):
        infer_completions(dataset, "promt")
