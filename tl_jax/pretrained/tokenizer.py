"""Text to token ids with the `tokenizers` package alone (transformers' own tokenizer classes may import torch)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tl_jax.errors import InputError
from tl_jax.pretrained import llama2c_tokenizer, tokenizer_files
from tl_jax.pretrained.added_tokens import content
from tl_jax.pretrained.json_files import copy, read_json, read_text, write_json
from tl_jax.pretrained.malformed import plain

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# All that says how a folder's texts become ids.
FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "sentence_bert_config.json",
)
# A vocabulary that `tokenizers` does not read; transformers writes it as tokenizer.json.
SENTENCEPIECE = "sentencepiece.bpe.model"
# What fills rows up where no file says: BERT's token and RoBERTa's.
_PADS = ("[PAD]", "<pad>")


class EncodedTexts(list[tuple[np.ndarray, np.ndarray]]):
    """One `(ids int32 [T], token_type int32 [T])` a text, ragged; `truncated` counts the texts that were cut."""

    truncated: int = 0


def padded(encoded: EncodedTexts, pad_id: int) -> dict[str, np.ndarray]:
    """Texts as one rectangle `[N, T]`, padded on the right to the longest: what `Model.apply` takes."""
    shape = (len(encoded), max((len(ids) for ids, _ in encoded), default=0))
    tokens, token_type = np.full(shape, pad_id, np.int32), np.zeros(shape, np.int32)
    mask = np.zeros(shape, bool)
    for i, (ids, types) in enumerate(encoded):
        tokens[i, : len(ids)], token_type[i, : len(ids)], mask[i, : len(ids)] = ids, types, True
    return {
        "tokens": tokens,
        "mask": mask,
        "token_type": token_type,
        "positions": np.where(mask, np.arange(shape[1], dtype=np.int32), np.int32(0)),
        "segments": mask.astype(np.int32),
    }


@dataclass(frozen=True, eq=False)
class TextProcessor:
    """A checkpoint's tokenizer: `processor(["where is my parcel?"])` gives what `Model.apply` takes.

    `files` are the tokenizer's files by name, `positions` the number of positions the model has, `rows` that of the
    tokens it embeds (None: unlimited). The tokenizer itself is read at first use, and raises `InputError` then if it is
    none, or its vocabulary has ids that the model has no row for; of a token added to it, only a text that has the
    token is refused. Padding and truncation written into tokenizer.json are left out: they are those of whoever saved
    it, not of this text.
    """

    files: Mapping[str, Path]
    positions: int | None = None
    rows: int | None = None
    _settings: dict[str, Any] = field(default_factory=dict, repr=False)  # tokenizer_config.json

    @classmethod
    def read(cls, folder: Path, positions: int | None = None, rows: int | None = None) -> TextProcessor | None:
        """The tokenizer of a model's folder; None where it has none.

        Raises `InputError` for a folder whose tokenizer is a sentencepiece model alone.
        """
        files = {name: folder / name for name in FILES if (folder / name).is_file()}
        if not any(needed <= files.keys() for needed in _ENOUGH) and (theirs := llama2c_tokenizer.find(folder)):
            return cls({_LLAMA2C: theirs}, positions, rows, llama2c_tokenizer.settings())
        if not any(needed <= files.keys() for needed in _ENOUGH):
            if (folder / SENTENCEPIECE).is_file():
                raise InputError(
                    f"{folder} has its tokenizer as {SENTENCEPIECE} alone, and tokenizer.json is what is read; "
                    + tokenizer_files.written_by_transformers(folder)
                )
            return None
        settings = read_json(files.get("tokenizer_config.json"))
        if "tokenizer.json" not in files:
            settings = tokenizer_files.with_class(settings, folder)
        return cls(files, positions, rows, settings)

    def __call__(
        self, texts: Sequence[str], *, pairs: Sequence[str] | None = None, max_length: int | None = None
    ) -> dict[str, np.ndarray]:
        """Encode `texts`, each with its second text of `pairs` if given, padded on the right to the longest.

        Returns `tokens`, `token_type`, `positions`, `segments` (int32) and `mask` (bool), all `[N, T]`. Texts longer
        than `max_length` tokens (special tokens counted; the default is `self.max_length`) are cut. Raises `InputError`
        for a `max_length` the model has no positions for.
        """
        return padded(self.encode(texts, pairs=pairs, max_length=max_length), self.pad_id)

    def encode(
        self, texts: Sequence[str], max_length: int | None = None, *, pairs: Sequence[str] | None = None
    ) -> EncodedTexts:
        """Encode `texts` without padding: `(ids, token_type)` each, and how many were truncated.

        Lone surrogates, which are no characters, count as U+FFFD. Raises `InputError` for a text with a token that the
        model has no row for.
        """
        if isinstance(texts, str) or isinstance(pairs, str):
            raise InputError("give the tokenizer a list of texts, not one text")
        if pairs is not None and len(pairs) != len(texts):
            raise InputError(f"{len(texts)} texts, but {len(pairs)} pairs")
        tokenizer, side = self._tokenizer, self._settings.get("truncation_side") or "right"
        if side not in ("left", "right"):
            raise InputError(f"tokenizer_config.json: truncation_side must be left or right, not {side!r:.99}")
        tokenizer.enable_truncation(self.checked(max_length, pairs is not None), direction=side)
        rows = list(texts) if pairs is None else list(zip(texts, pairs, strict=True))
        try:
            encodings = tokenizer.encode_batch_fast(rows)
        except TypeError:  # something in there is no string, or one that UTF-8 cannot hold
            encodings = tokenizer.encode_batch_fast([_mended(i, row) for i, row in enumerate(rows)])
        found = EncodedTexts((self._held(i, e.ids), np.array(e.type_ids, np.int32)) for i, e in enumerate(encodings))
        found.truncated = sum(bool(e.overflowing) for e in encodings)
        return found

    def ids(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids int32 of each text, special tokens and all, however many there are.

        Raises `InputError` for a text with a token that the model has no row for.
        """
        if isinstance(texts, str):
            raise InputError("give the tokenizer a list of texts, not one text")
        self._tokenizer.no_truncation()
        mended = [_mended(i, text) for i, text in enumerate(texts)]
        return [self._held(i, e.ids) for i, e in enumerate(self._tokenizer.encode_batch_fast(mended))]

    def decode(self, ids: Sequence[Sequence[int] | np.ndarray]) -> list[str]:
        """The text of each sequence of ids, without special tokens."""
        return list(self._tokenizer.decode_batch([[int(i) for i in row] for row in ids], skip_special_tokens=True))

    @cached_property
    def eos_id(self) -> int | None:
        """The id that ends a text; None where no file says which."""
        return self._id("eos_token")

    @property
    def max_length(self) -> int:
        """The most tokens of a text, unless asked otherwise: the least of what the checkpoint's files say."""
        said = (
            read_json(self.files.get("sentence_bert_config.json")).get("max_seq_length"),
            self._settings.get("model_max_length"),  # 1e30 where nobody said
            self.positions,
        )
        if wrong := [n for n in said if n is not None and (not isinstance(n, int | float) or n < 0)]:
            raise InputError(f"the tokenizer's files say {wrong[0]!r:.99} for the most tokens of a text: no number")
        return min((int(n) for n in said if n and n < 10**9), default=512)

    @cached_property
    def pad_id(self) -> int:
        """The id that fills rows up; what stands there is masked."""
        return self._id("pad_token", *_PADS) or 0

    def _id(self, role: str, *others: str) -> int | None:
        """The id of the first of the tokens for a role, and then of `others`, that the model has a row for."""
        said = (self._settings, read_json(self.files.get("special_tokens_map.json")))
        tokens = [content(settings[role]) for settings in said if settings.get(role)]
        ids = (self._tokenizer.token_to_id(token) for token in (*tokens, *others))
        return next((i for i in ids if i is not None and i not in self._rowless), None)

    def write(self, folder: Path) -> None:
        """Put the tokenizer's files into a model's folder, one of llama2.c as tokenizer.json.

        Raises `InputError` for files that are gone since they were read.
        """
        if _LLAMA2C in self.files:
            self._tokenizer.no_truncation()
            self._tokenizer.save(str(folder / "tokenizer.json"))
            write_json(folder / "tokenizer_config.json", self._settings)
            return
        for name, path in self.files.items():
            copy(path, folder / name)

    @cached_property
    def fingerprint(self) -> str:
        """A SHA-256 in hex of everything that decides which ids a text becomes, `max_length` apart."""
        digest = hashlib.sha256()
        for name in sorted(self.files):
            content = self.files[name].read_bytes()
            digest.update(f"{name} {len(content)}\n".encode() + content)
        return digest.hexdigest()

    def checked(self, max_length: int | None, pairs: bool = False) -> int:
        """The most tokens of a text, or of a pair; raises `InputError` for what the model has no positions for."""
        if max_length is None:
            max_length = self.max_length
        if self.positions is not None and max_length > self.positions:
            raise InputError(f"max_length {max_length} is more than the {self.positions} positions the model has")
        shortest = self._tokenizer.num_special_tokens_to_add(pairs) + 1
        if max_length < shortest:
            raise InputError(f"max_length {max_length} leaves no room for text: it must be {shortest} or more")
        return max_length

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        try:
            tokenizer = self._read()
        except InputError:
            raise
        except (KeyError, TypeError, ValueError) as e:  # settings that are none, in a file of any kind
            files = ", ".join(self.files)
            raise InputError(f"{self._folder}: {files} make no tokenizer ({type(e).__name__}: {e})") from None
        vocabulary = tokenizer.get_vocab(with_added_tokens=False)
        last = max(vocabulary, key=vocabulary.__getitem__, default="")
        if self.rows is not None and vocabulary.get(last, 0) >= self.rows:
            raise InputError(
                f"{self._folder}: the tokenizer has the token {plain(last)} of id {vocabulary[last]:,}, and the model "
                f"embeds {self.rows:,}: they are not of one model"
            )
        return tokenizer

    @cached_property
    def _rowless(self) -> dict[int, str]:
        """The added tokens that the model has no row for, by id: Llama 2's <pad> was one of 32,000 over 32,000 rows."""
        if self.rows is None:
            return {}
        return {i: token for token, i in self._tokenizer.get_vocab(with_added_tokens=True).items() if i >= self.rows}

    def _held(self, i: int, ids: list[int]) -> np.ndarray:
        """The ids of text `i` as int32; raises `InputError` for one that the model has no row for."""
        if self._rowless and (wrong := [n for n in ids if n in self._rowless]):
            raise InputError(
                f"text {i} has the token {plain(self._rowless[wrong[0]])} of id {wrong[0]:,}, and the model embeds "
                f"{self.rows:,}: leave it out of the text"
            )
        return np.array(ids, np.int32)

    @property
    def _folder(self) -> Path:
        return next(iter(self.files.values())).parent

    def _read(self) -> Tokenizer:
        from tokenizers import Tokenizer, processors

        path = self.files.get("tokenizer.json")
        if _LLAMA2C in self.files:
            return llama2c_tokenizer.tokenizer(self.files[_LLAMA2C])
        if path is None:
            return tokenizer_files.tokenizer(self.files, self._settings)
        try:
            tokenizer = Tokenizer.from_str(read_text(path, tokenizer_files.MAX_BYTES))
        except InputError:
            raise
        except Exception as e:  # the package raises plain Exception
            raise InputError(f"{path} is not a tokenizer: {e}") from None
        # tokenizer.json alone says what goes around a text: where there is one, transformers 5 drops add_bos_token and
        # add_eos_token of tokenizer_config.json, and puts nothing where no post-processor does
        if tokenizer.post_processor is None:
            tokenizer.post_processor = processors.TemplateProcessing("$A:0", "$A:0 $B:1", [])
        tokenizer.no_padding()
        _set_normalizer(tokenizer, self._settings)
        _set_pre_tokenizer(tokenizer, self._settings)
        return tokenizer


_LLAMA2C = "tokenizer.bin"  # what `files` calls the tokenizer of llama2.c, whatever its name
# The files of which any one group makes a tokenizer.
_ENOUGH: tuple[set[str], ...] = ({"tokenizer.json"}, *tokenizer_files.FILES)


def _set_normalizer(tokenizer: Tokenizer, settings: Mapping[str, Any]) -> None:
    """Set BERT's switches from tokenizer_config.json, which transformers follows where tokenizer.json disagrees."""
    from tokenizers import normalizers

    normalizer = tokenizer.normalizer
    if not isinstance(normalizer, normalizers.BertNormalizer):
        return
    switches = {
        "do_lower_case": "lowercase",
        "strip_accents": "strip_accents",
        "tokenize_chinese_chars": "handle_chinese_chars",
    }
    for theirs, ours in switches.items():
        if theirs in settings and settings[theirs] != getattr(normalizer, ours):
            setattr(normalizer, ours, settings[theirs])
    tokenizer.normalizer = normalizer


def _set_pre_tokenizer(tokenizer: Tokenizer, settings: Mapping[str, Any]) -> None:
    """Set RoBERTa's switch likewise: whether a text begins as its later words do, behind a space."""
    from tokenizers import pre_tokenizers

    splitter, spaced = tokenizer.pre_tokenizer, settings.get("add_prefix_space")
    if isinstance(splitter, pre_tokenizers.ByteLevel) and spaced is not None and spaced != splitter.add_prefix_space:
        splitter.add_prefix_space = spaced
        tokenizer.pre_tokenizer = splitter


def _mended(i: int, row: Any) -> Any:
    if isinstance(row, tuple):
        return tuple(_mended(i, text) for text in row)
    if not isinstance(row, str):
        raise InputError(f"text {i} is not a string: {row!r}")
    return row.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
