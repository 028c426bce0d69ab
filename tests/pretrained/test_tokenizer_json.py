"""What goes around a text by tokenizer.json, and tokens in it that the model has no row for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.pretrained.test_tokenizer import assert_ids_are_theirs
from tl_jax.errors import InputError
from tl_jax.pretrained.tokenizer import TextProcessor

TEXTS = ["where is my parcel?", "a", "", "<s> a </s> <pad>"]
CLASSES = [
    ("LlamaTokenizerFast", "qwen2"),  # as the distilled DeepSeek-R1
    ("LlamaTokenizer", "llama"),
    ("PreTrainedTokenizerFast", "llama"),
    (None, "qwen2"),
]


def json_folder(path: Path, around: str, named: str | None, model_type: str, **config: Any) -> Path:
    """tokenizer.json of byte-level pairs, as a language model has it; `around` is what it puts around a text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    special = ["<s>", "</s>"]
    trainer = trainers.BpeTrainer(vocab_size=280, initial_alphabet=letters, special_tokens=special, show_progress=False)
    made.train_from_iterator(["where is my parcel? the parcels are where the hugging was, mot"] * 3, trainer)
    ends = [("<s>", 0), ("</s>", 1)]
    made.post_processor = {
        "nothing": None,
        "bytes": processors.ByteLevel(trim_offsets=False),
        "a template of the text": processors.TemplateProcessing("$A", "$A $B:1", []),
        "its start": processors.TemplateProcessing("<s> $A", "<s> $A <s>:1 $B:1", ends[:1]),
        "both ends": processors.TemplateProcessing("<s> $A </s>", "<s> $A </s> <s>:1 $B:1 </s>:1", ends),
    }[around]
    path.mkdir()
    made.save(str(path / "tokenizer.json"))
    said = {"bos_token": "<s>", "eos_token": "</s>", "tokenizer_class": named, **config}
    (path / "tokenizer_config.json").write_text(json.dumps(said))
    (path / "config.json").write_text(json.dumps({"model_type": model_type}))
    return path


def processor_of(folder: Path, rows: int | None = None) -> TextProcessor:
    found = TextProcessor.read(folder, 5000, rows)
    assert found is not None
    return found


@pytest.mark.parametrize("around", ["nothing", "bytes", "a template of the text", "its start", "both ends"])
@pytest.mark.parametrize(
    "said",
    [
        {},
        {"add_bos_token": True},
        {"add_bos_token": True, "add_eos_token": True},
        {"add_bos_token": False, "add_eos_token": False},
        {"add_eos_token": True, "eos_token": None},
    ],
)
def test_ends_are_those_of_tokenizer_json_as_in_transformers(tmp_path: Path, around: str, said: dict[str, Any]) -> None:
    """Whatever tokenizer_config.json says of them: transformers 5 drops that where there is a tokenizer.json."""
    import transformers

    for i, (named, model_type) in enumerate(CLASSES):
        folder = json_folder(tmp_path / str(i), around, named, model_type, **said)
        assert_ids_are_theirs(processor_of(folder), transformers.AutoTokenizer.from_pretrained(folder), TEXTS)


def with_added(folder: Path, *tokens: str) -> Path:
    from tokenizers import Tokenizer

    made = Tokenizer.from_file(str(folder / "tokenizer.json"))
    made.add_special_tokens(list(tokens))
    made.save(str(folder / "tokenizer.json"))
    return folder


def test_a_token_added_beyond_the_rows_is_refused_only_in_a_text(tmp_path: Path) -> None:
    """As of the first Llama 2 of 13B, whose <pad> is the token 32,000 of a model with 32,000 rows."""
    import transformers

    folder = json_folder(tmp_path / "t", "its start", "LlamaTokenizer", "llama", pad_token="<pad>")
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    rows = max(vocabulary.values()) + 1
    processor = processor_of(with_added(folder, "<pad>"), rows)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert theirs.pad_token_id == rows
    assert_ids_are_theirs(processor, theirs, TEXTS[:3])
    assert processor.pad_id == 0 and processor.eos_id == 1
    assert processor(TEXTS[:3])["tokens"].max() < rows
    message = rf"text 1 has the token <pad> of id {rows}, and the model embeds {rows}: leave it out of the text"
    for ask in (lambda: processor.encode(["a", "b <pad>"]), lambda: processor.ids(["a", "b <pad>"])):
        with pytest.raises(InputError, match=message):
            ask()
    with pytest.raises(InputError, match=message):
        processor.encode(["a", "b"], pairs=["c", "<pad>"])
    assert len(processor.encode(["a <pad>"], 2)[0][0]) == 2  # what is cut off is not read
    assert processor_of(folder).pad_id == processor_of(folder, rows + 1).pad_id == rows
    assert np.array_equal(processor_of(folder, rows + 1).ids(["<pad>"])[0], [0, rows])


def test_a_pad_token_with_a_row_stands_in_for_one_without(tmp_path: Path) -> None:
    folder = json_folder(tmp_path / "t", "nothing", None, "llama", pad_token="<url>")
    added = with_added(folder, "<pad>", "<url>")
    first = processor_of(added).ids(["<pad>"])[0].item()
    assert processor_of(added).pad_id == first + 1
    assert processor_of(added, first + 1).pad_id == first
    (folder / "special_tokens_map.json").write_text('{"pad_token": "</s>"}')
    assert processor_of(added, first + 1).pad_id == 1


def test_an_end_token_without_a_row_is_none(tmp_path: Path) -> None:
    folder = with_added(json_folder(tmp_path / "t", "nothing", None, "llama", eos_token="<url>"), "<url>")
    last = processor_of(folder).eos_id
    assert (
        last is not None and processor_of(folder, last).eos_id is None and processor_of(folder, last + 1).eos_id == last
    )


def test_a_vocabulary_beyond_the_rows_is_refused(tmp_path: Path) -> None:
    folder = json_folder(tmp_path / "t", "nothing", None, "llama")
    with pytest.raises(
        InputError, match=r"the tokenizer has the token .* of id \d+, and the model embeds 200: they are"
    ):
        processor_of(folder, 200).encode(["a"])
