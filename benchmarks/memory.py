"""The memory that loading and converting take, as the system counts it, on a model of random weights.

make bench            or            python benchmarks/memory.py --layers 24

Each figure is the most that a fresh process held beside what it held before it began (VmHWM less VmRSS, of Linux).
PyTorch's files are measured where an interpreter with torch is (--peers) to write them.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from tl_jax.model import Model
from tl_jax.models.families import family
from tl_jax.pretrained.json_files import write_json
from tl_jax.pretrained.safetensors_files import write_folder
from tl_jax.pretrained.tensor_files import Deferred
from tl_jax.rules import paths

ROOT = Path(__file__).resolve().parent.parent
MB = 10**6
BASE = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
}
MEASURED = """
import sys
from tl_jax.pretrained import convert, load
import jax
jax.devices()
source, out = sys.argv[1:3]

def bytes_of(what):
    with open("/proc/self/status") as status:
        return 1024 * next(int(line.split()[1]) for line in status if line.startswith(what))

with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # the high-water mark starts anew
before = bytes_of("VmRSS")
kept = {call}
print(bytes_of("VmHWM") - before)
"""
PICKLE = """
import sys, torch
from safetensors.torch import load_file
torch.save(load_file(sys.argv[1] + "/model.safetensors"), sys.argv[2] + "/pytorch_model.bin")
"""


def main() -> None:
    """Measures, in this Python's environment, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=12, help="of the width of bert-base (default: 12)")
    parser.add_argument("--peers", default=str(ROOT / ".venv-bench" / "bin" / "python"), help="a Python with torch")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        safetensors, pickle = Path(place) / "safetensors", Path(place) / "pickle"
        tensors = write_model(safetensors, args.layers)
        folders = {"safetensors": safetensors}
        if Path(args.peers).is_file():
            pickle.mkdir()
            (pickle / "config.json").write_bytes((safetensors / "config.json").read_bytes())
            subprocess.run([args.peers, "-c", PICKLE, safetensors, pickle], check=True)
            folders["PyTorch"] = pickle
        whole, largest = (function(a.nbytes for a in tensors.values()) for function in (sum, max))
        print(f"a BERT of {whole / MB:.0f} MB in {len(tensors)} tensors, the largest {largest / MB:.0f} MB")
        calls = (
            ("loaded", "load(source)", whole + 2 * largest),
            ("loaded as bfloat16", "load(source, dtype='bfloat16')", whole // 2 + 2 * largest),
            ("converted to one file", "convert(source, out, overwrite=True)", 2 * largest),
            (
                "converted to shards of bfloat16",
                "convert(source, out, dtype='bfloat16', max_shard_size='100MB', overwrite=True)",
                2 * largest,
            ),
        )
        for kind, folder in folders.items():
            for what, call, limit in calls:
                program = MEASURED.replace("{call}", call)
                command = [sys.executable, "-c", program, folder, Path(place) / "out"]
                held = int(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
                verdict = "met" if held < limit else "missed"
                print(f"{kind + ' ' + what:<44} {held / MB:5.0f} MB, below {limit / MB:.0f} wanted: {verdict}")


def write_model(folder: Path, layers: int) -> dict[str, Any]:
    """A folder of random weights, made as they are written; returns its tensors, unread."""
    raw = {**BASE, "num_hidden_layers": layers}
    bert, rng = family("bert"), np.random.default_rng(0)
    tensors = {}
    for path, leaf in paths(Model(bert.stages(bert.CONFIG(raw), "pooler")).shapes()).items():
        name, transform = bert.NAMES.to_foreign(path)
        shape = leaf.shape[::-1] if transform == "transpose" else leaf.shape
        tensors[name] = Deferred(shape, leaf.dtype, lambda shape=shape: 0.02 * rng.standard_normal(shape, np.float32))
    folder.mkdir()
    write_json(folder / "config.json", raw)
    write_folder(folder, tensors)
    return tensors


if __name__ == "__main__":
    main()
