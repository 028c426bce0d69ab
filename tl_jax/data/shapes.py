"""How passes over whole sets are cut, so that they share what is compiled: with training, and with each other."""

from __future__ import annotations

from dataclasses import dataclass

from tl_jax.data.batches import BucketedPasses, Passes, TrainBatches
from tl_jax.data.encoded import Encoded, Examples
from tl_jax.data.encoded_images import EncodedImages
from tl_jax.data.image_batches import ImagePasses
from tl_jax.data.packed import PackedBatches, PackedPasses


@dataclass(frozen=True)
class PassShape:
    """What a run's manifest says of its batches.

    rows: of a batch, at most; each row is one example, or several if `packed`.
    lengths: the lengths of rows that are compiled anyway, ascending; images have none.
    divisor: what the number of packed rows must be a multiple of: the parts that a mesh splits them into.
    """

    rows: int
    lengths: tuple[int, ...]
    packed: bool = False
    divisor: int = 1

    @classmethod
    def of(cls, train: TrainBatches) -> PassShape:
        """As training has it, by micro-batch."""
        packed = isinstance(train, PackedBatches)
        rows = train.shapes[-1][-2] if packed else train.batch_size // train.accumulate
        return cls(rows, train.lengths, packed, train.divisor if isinstance(train, PackedBatches) else 1)

    def over(self, examples: Examples, pad: int, *, least: bool = False) -> Passes:
        """The batches of a pass. `pad` is the token id of padding; with `least` few examples have fewer rows, a power
        of two: less to compute, but one more shape to compile.
        """
        rows = self.rows
        if isinstance(examples, EncodedImages):
            return ImagePasses(examples, min(rows, 1 << (len(examples) - 1).bit_length()) if least else rows)
        assert isinstance(examples, Encoded)  # there are no others
        if self.packed:
            if least:
                needed = -(-int(examples.offsets[-1]) // self.lengths[-1])
                rows = min(rows, 1 << (needed - 1).bit_length())
            return PackedPasses(examples, rows, self.lengths[-1], pad=pad, divisor=self.divisor)
        if least:
            rows = min(rows, 1 << (len(examples) - 1).bit_length())
        return BucketedPasses(examples, rows, lengths=self.lengths, pad=pad)
