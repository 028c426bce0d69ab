"""What end-to-end tests fine-tune: a BERT of two layers in a Hugging Face folder, messages about three things, a shell.

Everything is a pure function of its arguments; nothing here needs torch or a network.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent

TOPICS = {
    "account": "password login email username profile locked".split(),
    "billing": "invoice charged refund card payment twice".split(),
    "delivery": "parcel courier late address package lost".split(),
}
FILLERS = "my the a please help i was where is not again today to with and why it for since me".split()
SPECIAL = "[PAD] [UNK] [CLS] [SEP] [MASK]".split()
WORDS = [*SPECIAL, *FILLERS, *(word for words in TOPICS.values() for word in words), "##s", "?", ".", ","]

CONFIG = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "vocab_size": len(WORDS),
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "initializer_range": 0.25,  # wide, for random weights to tell words apart
    "layer_norm_eps": 1e-12,
}
# The same for another family, where its config.json has other keys.
FAMILIES = {
    "bert": CONFIG,
    "roberta": {**CONFIG, "architectures": ["RobertaModel"], "model_type": "roberta", "pad_token_id": 0},
    "distilbert": {
        "architectures": ["DistilBertModel"],
        "model_type": "distilbert",
        "vocab_size": len(WORDS),
        "dim": 32,
        "n_layers": 2,
        "n_heads": 4,
        "hidden_dim": 48,
        "max_position_embeddings": 40,
        "initializer_range": 0.25,
    },
}
# Settings under which the tiny model learns its messages in a second or two, by method.
METHODS = {
    "probe": {},
    "full": {"lr": 2e-3},
    "last_layers:k=1": {"lr": 5e-3},
    "discriminative": {"lr": 3e-3},
    "gradual_unfreezing": {"lr": 5e-3},
    "lp_ft": {"lr": 2e-3},
    "bitfit": {"lr": 3e-2},
    "lora:rank=4": {"lr": 1e-2},
    "scratch": {"lr": 2e-3},
}
HEAD = "last_layers:k=0"  # the head alone, by steps: compiles sooner than any other

Row = tuple[str, str]


def write_bert(folder: Path, *, pooling: str = "mean", seed: int = 0, kind: str = "bert", **config: Any) -> Path:
    """A Hugging Face folder of random weights, as transformers or (not `pooler`) sentence-transformers write it.

    `kind` is one of `FAMILIES`.
    """
    import jax

    from tl_jax.model import Model, ModelInfo
    from tl_jax.models.families import family
    from tl_jax.pretrained import TextProcessor, save
    from tl_jax.pretrained.pooling import mode_config

    raw = {**FAMILIES[kind], **config}
    architecture = family(kind)
    settings = architecture.CONFIG(raw)
    files = folder.with_name(f"{folder.name}.tokenizer")
    files.mkdir(parents=True)
    (files / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    said = {"do_lower_case": True, "model_max_length": settings.positions, "tokenizer_class": "BertTokenizer"}
    (files / "tokenizer_config.json").write_text(json.dumps(said))
    processor = TextProcessor.read(files, settings.positions)
    info = ModelInfo(family=kind, config=raw, processor=processor, pooling=pooling)
    model = Model(architecture.stages(settings, pooling), info=info)
    save(folder, model, jax.tree.map(np.asarray, model.init(jax.random.key(seed))))
    if pooling != "pooler":
        types = {"": "Transformer", "1_Pooling": "Pooling"}
        modules = [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (path, kind) in enumerate(types.items())
        ]
        (folder / "modules.json").write_text(json.dumps(modules))
        (folder / "1_Pooling").mkdir()
        mode = mode_config(pooling, settings.hidden_size)
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(mode))
    return folder


def messages(count: int, seed: int = 0, labels: Sequence[str] = tuple(TOPICS)) -> list[Row]:
    """`count` different messages with their labels, each label as often as the others.

    They have 7 to 14 words, so that all are padded to 16 tokens.
    """
    rng = np.random.default_rng([seed, count])
    found: dict[str, str] = {}
    while len(found) < count:
        label = labels[len(found) % len(labels)]
        words = [*rng.choice(FILLERS, rng.integers(4, 12)), *rng.choice(TOPICS[label], 3, replace=False)]
        rng.shuffle(words)
        found.setdefault(" ".join(words), label)
    return list(found.items())


def write_csv(path: Path, rows: Iterable[Sequence[str]], header: Sequence[str] = ("text", "label")) -> Path:
    """A CSV file with a header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def environment(**changes: str) -> dict[str, str]:
    """The environment of a command: this repository, and what XLA compiled in one process serves the next."""
    shared = {
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache" / "jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.05",
    }
    return {**shared, **os.environ, "PYTHONPATH": str(ROOT), **changes}


def cli(*args: Any, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    """`tl-jax args…` in a process of its own, to its end."""
    command = [sys.executable, "-m", "tl_jax", *map(str, args)]
    return subprocess.run(command, cwd=cwd, env=environment(**env), capture_output=True, text=True, check=False)


# `tl-jax` with a checkpoint every few steps, so that a kill at any moment has one to go on from.
EAGER = (
    "import sys\n"
    "from tl_jax.training import loop\n"
    "loop._SAVE_SECONDS, loop._SAVE_SHARE = 0.0, 0.1\n"
    "from tl_jax.cli.main import main\n"
    "sys.exit(main(sys.argv[1:]))\n"
)


def eager(*args: Any, **env: str) -> subprocess.Popen[str]:
    """`tl-jax args…` as a process that goes on, saving often."""
    return subprocess.Popen(
        [sys.executable, "-c", EAGER, *map(str, args)],
        env=environment(**env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def leaves(checkpoint: Path) -> dict[str, str]:
    """The SHA-256 of each leaf of a checkpoint, as its commit says and `restore` checks."""
    commit = json.loads((checkpoint / "commit.json").read_text(encoding="utf-8"))
    return {name: leaf["sha256"] for name, leaf in commit["leaves"].items()}


def result(run: Path) -> dict[str, Any]:
    """All that a run ends in but what the clock decides: leaves of the best and the last checkpoint, metrics."""
    last = max((run / "checkpoints").glob("[0-9]*"), key=lambda path: int(path.name), default=None)
    lines = (json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    clock = ("seconds", "shapes_compiled", "compile_seconds")
    return {
        "best": leaves(run / "checkpoints" / "best"),
        "last": None if last is None else (last.name, leaves(last)),
        "metrics": [{key: value for key, value in line.items() if key != "time"} for line in lines],
        "summary": {key: value for key, value in summary.items() if key not in clock},
    }


def digests(tree: Mapping[str, Any]) -> dict[str, str]:
    """The SHA-256 of each leaf's dtype, shape and bytes, by path."""
    from tl_jax.rules import paths

    found = {}
    for path, leaf in paths(tree).items():
        array = np.ascontiguousarray(leaf)
        found[path] = hashlib.sha256(f"{array.dtype}{array.shape}".encode() + array.tobytes()).hexdigest()
    return found


@dataclass(frozen=True)
class Tiny:
    """Files to fine-tune with: two model folders and a CSV file each to train and to score."""

    folder: Path
    mean: Path
    pooler: Path
    train: Path
    test: Path


def make(folder: Path) -> Tiny:
    """The files, in `folder`."""
    return Tiny(
        folder,
        write_bert(folder / "mean"),
        write_bert(folder / "pooler", pooling="pooler"),
        write_csv(folder / "messages.csv", messages(210)),
        write_csv(folder / "new.csv", messages(60, seed=1)),
    )


def settings(method: str, **changes: Any) -> dict[str, Any]:
    """What `tl.finetune` takes beside model and data; one shape of batches, so one compilation a method."""
    return {
        "method": method,
        "epochs": 5,
        "batch_size": 16,
        **{**METHODS, HEAD: {"lr": 3e-2}}.get(method, {}),
        **changes,
    }


def flags(method: str, **changes: Any) -> list[str]:
    """The same for the command line."""
    pairs = settings(method, **changes).items()
    return [word for name, value in pairs for word in (f"--{name.replace('_', '-')}", str(value))]


def tune(tiny: Tiny, out: Path, method: str, **changes: Any) -> Any:
    """The run of a method, in this process and in silence."""
    import tl_jax as tl

    given = {"data": tiny.train, "eval_data": tiny.test, **settings(method, **changes)}
    return tl.finetune(tiny.mean, out=out, quiet=True, **given)
