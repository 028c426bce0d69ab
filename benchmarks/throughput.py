"""How many examples a second a fine-tune sees once it is under way, beside transformers' Trainer: a GPU's question.

    python benchmarks/throughput.py                        a BERT of base size, reviews of up to 256 tokens, batch 32
    python benchmarks/throughput.py --peers PYTHON         the interpreter that has torch and transformers

Pace does not depend on the values of weights: they are random, in the shape of bert-base (110 million parameters), with
MiniLM's tokenizer. The reviews are Amazon's (TL_JAX_DATA, default ../shared/data). Peer and ours alternate, each a
process of its own; printed are the median of the rounds and its range, and the most device memory that was in use.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "demo"))

import model as minilm  # noqa: E402  the weights that the demo fetches

REVIEWS = ROOT / os.environ.get("TL_JAX_DATA", "../shared/data") / "t_amazon_multidomain"
DOMAINS = ("books", "dvd", "electronics", "kitchen")
STEPS, BATCH, LENGTH = 200, 32, 256
BASE = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}


def base_model(out: Path) -> None:
    """A folder with random weights of base size: MiniLM's tensors, widened, a first layer's copied twelve times."""
    from tl_jax.pretrained import safetensors_files, weights

    small = minilm.folder()
    config = json.loads((small / "config.json").read_text(encoding="utf-8"))
    widths = {config["hidden_size"]: BASE["hidden_size"], config["intermediate_size"]: BASE["intermediate_size"]}
    rng, first, tensors = np.random.default_rng(0), "encoder.layer.0.", {}
    for name, spec in weights.read(small).specs.items():
        if ("encoder.layer." in name and first not in name) or name.endswith("position_ids"):
            continue
        for layer in range(BASE["num_hidden_layers"]) if first in name else (0,):
            wide = [widths.get(size, size) for size in spec.shape]
            value = np.ones(wide) if "LayerNorm.weight" in name else 0.02 * rng.standard_normal(wide)
            tensors[name.replace(first, f"encoder.layer.{layer}.")] = np.asarray(value, np.float32)
    safetensors_files.write(out / "model.safetensors", tensors)
    (out / "config.json").write_text(json.dumps({**config, **BASE}), encoding="utf-8")
    for file in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        if (small / file).is_file():
            (out / file).write_bytes((small / file).read_bytes())


def reviews(out: Path) -> None:
    """train.jsonl of all domains."""
    lines = [line for name in DOMAINS for line in (REVIEWS / f"{name}.jsonl").read_text("utf-8").splitlines()]
    rows = [json.loads(lines[i]) for i in np.random.default_rng(0).permutation(len(lines))]
    text = "".join(json.dumps({"text": row["text"], "label": row["label"]}) + "\n" for row in rows)
    (out / "train.jsonl").write_text(text, encoding="utf-8")


def ours(model: str, data: str, precision: str) -> dict[str, Any]:
    """Train in this process: examples a second (the median of the second half) and the most bytes on the device."""
    import jax

    import tl_jax as tl

    with tempfile.TemporaryDirectory() as out:
        how = {"steps": STEPS, "batch_size": BATCH, "max_length": LENGTH, "precision": precision}
        tl.finetune(model, f"{data}/train.jsonl", method="full", lr=2e-5, out=f"{out}/run", quiet=True, **how)
        events = [json.loads(line) for line in (Path(out) / "run" / "metrics.jsonl").read_text("utf-8").splitlines()]
    steps = [event for event in events if event["event"] == "step" and event["step"] > STEPS // 2]
    used = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    pace = median(event["time"]["examples_per_second"] for event in steps)
    return {"examples_per_second": pace, "device_bytes": used, "padding": median(event["padding"] for event in steps)}


def run(command: Sequence[str]) -> dict[str, Any]:
    """What a process printed last. Exits showing what it said if it fails."""
    environment = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if ended.returncode:
        sys.exit(f"{' '.join(command)}\n{ended.stdout}{ended.stderr}")
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


def line(name: str, found: Sequence[dict[str, Any]], peers: Sequence[dict[str, Any]]) -> str:
    """A row of the table."""
    pace = [one["examples_per_second"] for one in found]
    ratios = sorted(mine / theirs["examples_per_second"] for mine, theirs in zip(pace, peers, strict=False))
    times = f"{median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})" if ratios else ""
    used = [one["device_bytes"] for one in found if one["device_bytes"]]
    memory = f"{max(used) / 1e9:.2f}" if used else ""
    return f"| {name} | {median(pace):.0f} ({min(pace):.0f} to {max(pace):.0f}) | {times} | {memory} |"


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", default=str(ROOT / ".venv-bench" / "bin" / "python"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", choices=["bfloat16", "float32"], action="append")
    parser.add_argument("--one", nargs=3, metavar=("MODEL", "DATA", "PRECISION"), help="ours alone, in this process")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(ours(*args.one)))
        return
    print(f"| BERT of base size, reviews of up to {LENGTH} tokens, batch {BATCH} | examples a second (range) |", end="")
    print(" times faster (range) | device memory, GB |\n|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        base_model(Path(folder))
        reviews(Path(folder))
        mine = [sys.executable, "benchmarks/throughput.py", "--one", folder, folder]
        peer = [args.peers, "benchmarks/peers/trainer.py", folder, folder, "--steps", str(STEPS)]
        for precision in args.precision or ["bfloat16", "float32"]:
            found = []
            for _ in range(args.rounds):
                found.append((run([*peer, "--precision", precision]), run([*mine, precision])))
                print(f"{precision}: {found[-1]}", file=sys.stderr, flush=True)
            theirs, own = zip(*found, strict=True)
            print(line(f"Trainer, {precision}", theirs, ()))
            print(line(f"`full`, {precision}", own, theirs), flush=True)


if __name__ == "__main__":
    main()
