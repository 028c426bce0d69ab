"""Data: files and lists to data sets, splits, and batches that are a pure function of (seed, step). No jax here."""

from tl_jax.data.batches import BucketedBatches, BucketedPasses, Passes, TrainBatches
from tl_jax.data.columns import Columns, infer_columns, texts
from tl_jax.data.dataset import Dataset
from tl_jax.data.division import Division, divide, to_score
from tl_jax.data.encoded import Encoded, Feature
from tl_jax.data.labels import class_names, class_numbers, label_texts
from tl_jax.data.lengths import bucket_lengths
from tl_jax.data.opening import Splits, open
from tl_jax.data.packed import PackedBatches, PackedPasses
from tl_jax.data.shapes import PassShape
from tl_jax.data.splits import fraction, holdout, parse_fraction, shots

__all__ = [
    "open",
    "Dataset",
    "Splits",
    "infer_columns",
    "Columns",
    "texts",
    "label_texts",
    "class_names",
    "class_numbers",
    "holdout",
    "shots",
    "fraction",
    "parse_fraction",
    "Division",
    "divide",
    "to_score",
    "Encoded",
    "Feature",
    "TrainBatches",
    "BucketedBatches",
    "PackedBatches",
    "Passes",
    "BucketedPasses",
    "PackedPasses",
    "PassShape",
    "bucket_lengths",
]
