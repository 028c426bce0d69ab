"""Data: files and lists to data sets, splits, and batches that are a pure function of (seed, step). No jax here."""

from tl_jax.data.augmentation import Augmentation
from tl_jax.data.batches import BucketedBatches, BucketedPasses, Passes, TrainBatches
from tl_jax.data.columns import Columns, infer_columns, infer_completions, infer_image_columns, pictures, texts
from tl_jax.data.dataset import Dataset
from tl_jax.data.division import Division, divide, to_score
from tl_jax.data.encoded import Encoded, Examples, Feature, filled, shape_of
from tl_jax.data.encoded_images import EncodedImages
from tl_jax.data.image_batches import ImageBatches, ImagePasses
from tl_jax.data.image_files import image_files
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
    "infer_image_columns",
    "infer_completions",
    "Columns",
    "texts",
    "pictures",
    "image_files",
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
    "Examples",
    "Encoded",
    "EncodedImages",
    "Feature",
    "Augmentation",
    "shape_of",
    "filled",
    "TrainBatches",
    "BucketedBatches",
    "PackedBatches",
    "ImageBatches",
    "Passes",
    "BucketedPasses",
    "PackedPasses",
    "ImagePasses",
    "PassShape",
    "bucket_lengths",
]
