"""A function from a text to its token ids as a processor."""

from __future__ import annotations

import numpy as np
import pytest

from tests.chains import fault
from tl_jax.pretrained import OwnTokenizer


def letters(text: str) -> list[int]:
    return [ord(letter) for letter in text]


def test_texts_are_cut_and_padded() -> None:
    processor = OwnTokenizer(letters, max_length=3, pad_id=9)
    encoded = processor.encode(["ab", "abcd", ""])
    assert [ids.tolist() for ids, _ in encoded] == [[97, 98], [97, 98, 99], []]
    assert encoded.truncated == 1 and processor.encode(["abcd"], 8).truncated == 0
    inputs = processor(["ab", "abc"])
    assert inputs["tokens"].tolist() == [[97, 98, 9], [97, 98, 99]] and inputs["tokens"].dtype == np.int32
    assert inputs["mask"].tolist() == [[True, True, False], [True] * 3]
    assert inputs.keys() == {"tokens", "mask", "token_type", "positions", "segments"}


@pytest.mark.parametrize("given", [lambda text: [[1, 2]], lambda text: [0.5], lambda text: "ab", lambda text: 3])
def test_what_is_no_list_of_ids(given) -> None:
    assert "for text 0: it must give token ids" in fault(OwnTokenizer(given, 8).encode, ["a"])
    assert "a list of texts, not one text" in fault(OwnTokenizer(letters, 8), "a")
