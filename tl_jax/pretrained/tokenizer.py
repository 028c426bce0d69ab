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
from tl_jax.pretrained import llama2c_tokenizer
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
_MAX_BYTES = 1 << 28  # of a tokenizer.json or vocab.txt: the largest there are have a fifth of it
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
    none, or makes ids that the model has no row for. Padding and truncation written into tokenizer.json are left out:
    they are those of whoever saved it, not of this text.
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
                    "transformers writes one, once: "
                    f"AutoTokenizer.from_pretrained({str(folder)!r}).save_pretrained({str(folder)!r})"
                )
            return None
        return cls(files, positions, rows, read_json(files.get("tokenizer_config.json")))

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

        Lone surrogates, which are no characters, count as U+FFFD.
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
        found = EncodedTexts((np.array(e.ids, np.int32), np.array(e.type_ids, np.int32)) for e in encodings)
        found.truncated = sum(bool(e.overflowing) for e in encodings)
        return found

    def ids(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids int32 of each text, special tokens and all, however many there are."""
        if isinstance(texts, str):
            raise InputError("give the tokenizer a list of texts, not one text")
        self._tokenizer.no_truncation()
        mended = [_mended(i, text) for i, text in enumerate(texts)]
        return [np.array(e.ids, np.int32) for e in self._tokenizer.encode_batch_fast(mended)]

    def decode(self, ids: Sequence[Sequence[int] | np.ndarray]) -> list[str]:
        """The text of each sequence of ids, without special tokens."""
        return list(self._tokenizer.decode_batch([[int(i) for i in row] for row in ids], skip_special_tokens=True))

    @cached_property
    def eos_id(self) -> int | None:
        """The id that ends a text; None where no file says which."""
        said = (self._settings, read_json(self.files.get("special_tokens_map.json")))
        tokens = (_content(settings["eos_token"]) for settings in said if settings.get("eos_token"))
        return next((i for token in tokens if (i := self._tokenizer.token_to_id(token)) is not None), None)

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
        said = (self._settings, read_json(self.files.get("special_tokens_map.json")))
        tokens = [_content(settings["pad_token"]) for settings in said if settings.get("pad_token")]
        ids = (self._tokenizer.token_to_id(token) for token in (*tokens, *_PADS))
        return next((i for i in ids if i is not None), 0)

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
        vocabulary = tokenizer.get_vocab(with_added_tokens=True)
        last = max(vocabulary, key=vocabulary.__getitem__, default="")
        if self.rows is not None and vocabulary.get(last, 0) >= self.rows:
            raise InputError(
                f"{self._folder}: the tokenizer has the token {plain(last)} of id {vocabulary[last]:,}, and the model "
                f"embeds {self.rows:,}: they are not of one model"
            )
        return tokenizer

    @property
    def _folder(self) -> Path:
        return next(iter(self.files.values())).parent

    def _read(self) -> Tokenizer:
        from tokenizers import Tokenizer

        path = self.files.get("tokenizer.json")
        if _LLAMA2C in self.files:
            return llama2c_tokenizer.tokenizer(self.files[_LLAMA2C])
        if path is None and "vocab.txt" in self.files:
            return _wordpiece(self.files["vocab.txt"], self._settings)
        if path is None:
            return _byte_level(self.files["vocab.json"], self.files["merges.txt"], self._settings)
        try:
            tokenizer = Tokenizer.from_str(read_text(path, _MAX_BYTES))
        except InputError:
            raise
        except Exception as e:  # the package raises plain Exception
            raise InputError(f"{path} is not a tokenizer: {e}") from None
        tokenizer.no_padding()
        _set_normalizer(tokenizer, self._settings)
        _set_pre_tokenizer(tokenizer, self._settings)
        return tokenizer


_LLAMA2C = "tokenizer.bin"  # what `files` calls the tokenizer of llama2.c, whatever its name
# The files of which any one group makes a tokenizer.
_ENOUGH: tuple[set[str], ...] = ({"tokenizer.json"}, {"vocab.txt"}, {"vocab.json", "merges.txt"})


def _wordpiece(vocab: Path, settings: Mapping[str, Any]) -> Tokenizer:
    """BERT's tokenizer from its vocabulary, one token a line."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    # split at newlines alone: a vocabulary may hold other line separators as tokens
    lines = read_text(vocab, _MAX_BYTES).removesuffix("\n").split("\n")
    ids = {line.removesuffix("\r"): i for i, line in enumerate(lines)}
    roles = _roles(settings, {role: f"[{role.upper()}]" for role in ("unk", "sep", "pad", "cls", "mask")})
    _check_roles(roles, ids, vocab, "BERT")
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token=roles["unk"]))
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
        strip_accents=settings.get("strip_accents"),
        lowercase=settings.get("do_lower_case", True),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    cls, sep = roles["cls"], roles["sep"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{cls}:0 $A:0 {sep}:0",
        pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
        special_tokens=[(cls, ids[cls]), (sep, ids[sep])],
    )
    _add_roles(tokenizer, roles)
    return tokenizer


def _byte_level(vocab: Path, merges: Path, settings: Mapping[str, Any]) -> Tokenizer:
    """RoBERTa's tokenizer, GPT-2's byte-level pairs between other special tokens, from its two files."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    standard = {"unk": "<unk>", "sep": "</s>", "pad": "<pad>", "cls": "<s>", "mask": "<mask>"}
    roles = _roles(settings, standard)
    _check_roles(roles, ids := read_json(vocab), vocab, "RoBERTa")
    try:
        tokenizer = Tokenizer(models.BPE.from_file(str(vocab), str(merges)))
    except Exception as e:  # the package raises plain Exception
        raise InputError(f"{vocab} and {merges} are not a tokenizer: {e}") from None
    spaced = bool(settings.get("add_prefix_space", False))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=spaced)
    sep, cls = ((roles[role], ids[roles[role]]) for role in ("sep", "cls"))
    tokenizer.post_processor = processors.RobertaProcessing(sep, cls, trim_offsets=True, add_prefix_space=spaced)
    _add_roles(tokenizer, roles)
    return tokenizer


def _content(token: Any) -> str:
    """A special token as a config writes it: a string, or an object that holds one."""
    said = token.get("content") if isinstance(token, dict) else token
    if not isinstance(said, str):
        raise InputError(f"a special token must be a text, not {token!r:.99}")
    return said


def _roles(settings: Mapping[str, Any], standard: Mapping[str, str]) -> dict[str, str]:
    """The special tokens by role, those of `standard` unless the settings name others."""
    return {role: _content(settings.get(f"{role}_token") or token) for role, token in standard.items()}


def _check_roles(roles: Mapping[str, str], ids: Mapping[str, Any], vocab: Path, family: str) -> None:
    if missing := [token for role, token in roles.items() if token not in ids and role != "mask"]:
        raise InputError(f"{vocab} lacks {', '.join(missing)}: it is not a vocabulary of {family}")


def _add_roles(tokenizer: Tokenizer, roles: Mapping[str, str]) -> None:
    """Make those of the special tokens special that the vocabulary has."""
    from tokenizers import AddedToken

    known = [token for token in roles.values() if tokenizer.token_to_id(token) is not None]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in known])


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
