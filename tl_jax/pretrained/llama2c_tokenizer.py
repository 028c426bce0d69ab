"""The tokenizer of llama2.c, `tok512.bin` and its like, as one of the `tokenizers` package.

The file is an int32, the length of the longest piece, then for each piece a float32 score, an int32 length and as many
bytes of UTF-8. Pieces 0, 1 and 2 are unknown, begin and end; 3 to 258 the bytes. Characters are merged pair by pair,
the piece with the highest score first: byte-pair encoding with the merges in the order of the scores.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tl_jax.errors import InputError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPECIAL = ("<unk>", "<s>", "</s>")
PATTERN = "tok*.bin"
_BYTES = 3  # the piece of byte 0


class Piece(NamedTuple):
    """A text and its score: the higher, the earlier it is merged."""

    text: str
    score: float


def find(folder: Path) -> Path | None:
    """The tokenizer of llama2.c in a folder; None where there is none, or more than one."""
    found = sorted(folder.glob(PATTERN))
    return found[0] if len(found) == 1 else None


def read_pieces(path: Path) -> list[Piece]:
    """The pieces in the order of their ids; raises `InputError` for a file that is none of these."""
    data = path.read_bytes()
    pieces: list[Piece] = []
    at = 4
    try:
        (longest,) = struct.unpack_from("<i", data)
        while at < len(data):
            score, length = struct.unpack_from("<fi", data, at)
            at += 8
            if not 0 <= length <= longest or at + length > len(data):
                raise ValueError
            pieces.append(Piece(data[at : at + length].decode("utf-8"), score))
            at += length
    except (struct.error, ValueError):
        raise InputError(
            f"{path} is not a tokenizer of llama2.c: piece {len(pieces)} at byte {at} is damaged"
        ) from None
    if len(pieces) < _BYTES + 256 or pieces[_BYTES].text != "<0x00>":
        raise InputError(f"{path} is not a tokenizer of llama2.c: it lacks the pieces of the 256 bytes")
    return pieces


def tokenizer(path: Path) -> Tokenizer:
    """The tokenizer: a space before the text and `<s>` before its ids, bytes for characters that are no piece."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

    read = read_pieces(path)
    pieces = [*(Piece(name, 0.0) for name in SPECIAL), *read[len(SPECIAL) :]]
    ids: dict[str, int] = {}
    for i, piece in enumerate(pieces):
        ids.setdefault(piece.text, i)
    model = models.BPE(ids, _merges(pieces, ids), unk_token=SPECIAL[0], fuse_unk=True, byte_fallback=True)
    made = Tokenizer(model)
    made.normalizer = normalizers.Prepend(" ")
    made.post_processor = processors.TemplateProcessing(
        single="<s>:0 $A:0", pair="<s>:0 $A:0 <s>:1 $B:1", special_tokens=[("<s>", ids["<s>"])]
    )
    made.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return made


def settings() -> dict[str, Any]:
    """What tokenizer_config.json says of it."""
    unk, bos, eos = SPECIAL
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": unk,
        "bos_token": bos,
        "eos_token": eos,
        "clean_up_tokenization_spaces": False,
    }


def _merges(pieces: list[Piece], ids: dict[str, int]) -> list[tuple[str, str]]:
    """All ways to make a piece of two others, the pieces with the highest scores first."""
    ranked = sorted(range(_BYTES + 256, len(pieces)), key=lambda i: -pieces[i].score)
    texts = (pieces[i].text for i in ranked)
    return [
        (text[:at], text[at:]) for text in texts for at in range(1, len(text)) if text[:at] in ids and text[at:] in ids
    ]
