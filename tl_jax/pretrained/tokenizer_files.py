"""A tokenizer from the files of before tokenizer.json: BERT's vocab.txt, or RoBERTa's vocab.json and merges.txt."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tl_jax.errors import InputError
from tl_jax.pretrained.added_tokens import Tokens
from tl_jax.pretrained.json_files import read_json, read_text
from tl_jax.pretrained.malformed import plain

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MAX_BYTES = 1 << 28  # of a tokenizer.json or vocab.txt: the largest there are have a fifth of it
_OWN = "tl.pretrained.OwnTokenizer makes a tokenizer of a function from a text to its token ids"


def written_by_transformers(folder: Path) -> str:
    """What a message says of how a folder gets a tokenizer.json."""
    return (
        "transformers writes one, once: "
        f"AutoTokenizer.from_pretrained({str(folder)!r}).save_pretrained({str(folder)!r})"
    )


def with_class(settings: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The settings of tokenizer_config.json, with the tokenizer's class of config.json where they name none."""
    config = folder / "config.json"
    named = settings.get("tokenizer_class") or read_json(config if config.is_file() else None).get("tokenizer_class")
    return {**settings, "tokenizer_class": named}


def tokenizer(files: Mapping[str, Path], settings: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer that `files` (any of `FILES`, by name) make.

    Raises `InputError` for one of a class that other rules go with, and for files that make none.
    """
    kind = _kind(files, settings.get("tokenizer_class"))
    if (words := settings.get("word_tokenizer_type") or "basic") != "basic":
        raise InputError(
            f"{files['tokenizer_config.json']}: word_tokenizer_type is {words!r:.99}, and only basic is read; {_OWN}"
        )
    return kind.make([files[name] for name in kind.files], Tokens.read(files, settings))


def _kind(files: Mapping[str, Path], named: Any) -> _Kind:
    there = [kind for kind in _KINDS if set(kind.files) <= files.keys()]
    for kind in there:
        if not named or (isinstance(named, str) and named.removesuffix("Fast") in kind.classes):
            return kind
    folder = files[there[0].files[0]].parent
    read = ", ".join(f"{' and '.join(kind.files)} for {' or '.join(kind.classes)}" for kind in _KINDS)
    raise InputError(
        f"{folder}: tokenizer_class is {plain(str(named))} and there is no tokenizer.json; without one, what is read "
        f"is {read}; {written_by_transformers(folder)}. If it has none of that class either, {_OWN}"
    )


def _wordpiece(paths: list[Path], tokens: Tokens) -> Tokenizer:
    """BERT's tokenizer from its vocabulary, one token a line."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    (vocab,), settings = paths, tokens.settings
    # split at newlines alone: a vocabulary may hold other line separators as tokens
    lines = read_text(vocab, MAX_BYTES).removesuffix("\n").split("\n")
    ids = {line.removesuffix("\r"): i for i, line in enumerate(lines)}
    roles = tokens.roles({role: f"[{role.upper()}]" for role in ("unk", "sep", "pad", "cls", "mask")})
    # the model itself looks its unknown token up: an added one is none to it
    _check_roles(roles, ids.keys() | (tokens.added_names - {roles["unk"]}), vocab, "BERT")
    made = Tokenizer(models.WordPiece(ids, unk_token=roles["unk"]))
    made.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
        strip_accents=settings.get("strip_accents"),
        lowercase=settings.get("do_lower_case", True),
    )
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokens.add(made, roles)
    cls, sep, known = roles["cls"], roles["sep"], made.get_vocab()
    made.post_processor = processors.TemplateProcessing(
        single=f"{cls}:0 $A:0 {sep}:0",
        pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
        special_tokens=[(cls, known[cls]), (sep, known[sep])],
    )
    return made


def _byte_level(paths: list[Path], tokens: Tokens) -> Tokenizer:
    """RoBERTa's tokenizer, GPT-2's byte-level pairs between other special tokens, from its two files."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    vocab, merges = paths
    standard = {"unk": "<unk>", "sep": "</s>", "pad": "<pad>", "cls": "<s>", "mask": "<mask>"}
    roles = tokens.roles({"bos": "<s>", "eos": "</s>", **standard})
    needed = {role: roles[role] for role in standard}  # cls and sep go around a text: bos and eos need not be there
    _check_roles(needed, read_json(vocab).keys() | tokens.added_names, vocab, "RoBERTa")
    try:
        made = Tokenizer(models.BPE.from_file(str(vocab), str(merges)))
    except Exception as e:  # the package raises plain Exception
        raise InputError(f"{vocab} and {merges} are not a tokenizer: {e}") from None
    spaced = bool(tokens.settings.get("add_prefix_space", False))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=spaced)
    tokens.add(made, roles)
    known = made.get_vocab()
    sep, cls = ((roles[role], known[roles[role]]) for role in ("sep", "cls"))
    made.post_processor = processors.RobertaProcessing(sep, cls, trim_offsets=True, add_prefix_space=spaced)
    return made


def _check_roles(roles: Mapping[str, str], known: set[str], vocab: Path, family: str) -> None:
    if missing := [token for role, token in roles.items() if token not in known and role != "mask"]:
        raise InputError(f"{vocab} lacks {', '.join(missing)}: it is not a vocabulary of {family}")


class _Kind(NamedTuple):
    """The files, the classes whose rules `make` follows, without "Fast", and what makes the tokenizer of the files."""

    files: tuple[str, ...]
    classes: tuple[str, ...]
    make: Callable[[list[Path], Tokens], Tokenizer]


_KINDS = (
    _Kind(("vocab.txt",), ("BertTokenizer", "DistilBertTokenizer"), _wordpiece),
    _Kind(("vocab.json", "merges.txt"), ("RobertaTokenizer",), _byte_level),
)
FILES = tuple(set(kind.files) for kind in _KINDS)  # those of which any one group makes a tokenizer
