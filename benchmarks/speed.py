"""How long a fine-tune takes beside what a user would pick instead, and how much memory: SST-2 from MiniLM, batch 32.

    make bench                                    all of it, an hour on two cores; fills .venv-bench for the peer
    python benchmarks/speed.py --only full        one line of the table; --rounds N

Peer and ours alternate, each a process of its own from start to end, evaluation on the dev set after every epoch
included, with equal threads. Printed are medians, the median ratio of the rounds and its range, and the peak resident
memory that the operating system reports. `docs/benchmarks.md` is written.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "demo"))

import model as minilm  # noqa: E402  the weights that the demo fetches

DATA = ROOT / os.environ.get("TL_JAX_DATA", "../shared/data") / "t_sst2"
PEERS = ROOT / ".venv-bench" / "bin" / "python"


@dataclass(frozen=True)
class Ran:
    """A process that ended: seconds, peak memory in bytes, accuracy on the dev set."""

    seconds: float
    memory: int
    accuracy: float


@dataclass(frozen=True)
class Row:
    """A comparison: what the peer does, what we do for the same purpose, and how many rounds are enough."""

    name: str
    peer: tuple[str, ...]
    ours: tuple[str, ...]
    caches: str  # "warm", "cold", or "cold features": what of ours is emptied before each round


ROWS = {
    "full": Row(
        "full, 1 epoch",
        ("--train", "full", "--epochs", "1", "--lr", "5e-5"),
        ("--method", "full", "--epochs", "1"),
        "warm",
    ),
    "full-cold": Row(
        "full, 1 epoch, nothing compiled before",
        ("--train", "full", "--epochs", "1", "--lr", "5e-5"),
        ("--method", "full", "--epochs", "1"),
        "cold",
    ),
    "probe": Row(
        "head alone: 10 epochs; probe",
        ("--train", "head", "--epochs", "10", "--lr", "1e-3"),
        ("--method", "probe"),
        "cold features",
    ),
    "probe-warm": Row(
        "head alone: 10 epochs; probe, features there",
        ("--train", "head", "--epochs", "10", "--lr", "1e-3"),
        ("--method", "probe"),
        "warm",
    ),
    "last_layers": Row(
        "last two layers, 3 epochs",
        ("--train", "last_layers", "--epochs", "3", "--lr", "5e-5"),
        ("--method", "last_layers:k=2", "--epochs", "3"),
        "cold features",
    ),
}


def run(command: list[str], environment: dict[str, str], read: Callable[[str], float]) -> Ran:
    """A process from start to end. Exits showing what it said if it fails."""
    with tempfile.TemporaryFile() as out:
        began = time.perf_counter()
        process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **environment}, stdout=out, stderr=out)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        out.seek(0)
        said = out.read().decode()
    if status:
        sys.exit(f"{' '.join(command)}\n{said}")
    return Ran(seconds, usage.ru_maxrss * 1024, read(said))


def peer(row: Row) -> Ran:
    """The peer's process."""
    command = [str(PEERS), "benchmarks/peers/trainer.py", str(minilm.folder()), str(DATA), *row.peer]
    return run(command, {}, lambda said: float(json.loads(said.splitlines()[-1])["accuracy"]))


def ours(row: Row, caches: Path) -> Ran:
    """Our process."""
    for name, emptied in (("features", row.caches != "warm"), ("compiled", row.caches == "cold")):
        if emptied:
            subprocess.run(["rm", "-rf", str(caches / name)], check=True)
    with tempfile.TemporaryDirectory() as out:
        data = ["--data", str(caches / "data"), "--out", f"{out}/run"]
        command = [sys.executable, "-m", "tl_jax", "finetune", "--model", str(minilm.folder()), *data, *row.ours]
        environment = {"TL_JAX_CACHE": str(caches)}
        return run(command, environment, lambda said: float(re.findall(r"accuracy\s+([0-9.]+)", said)[-1]))


def main() -> None:
    """Measures and prints, and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(ROWS), action="append", help="a line of the table (default: all)")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    if not PEERS.is_file():
        sys.exit("error: the peers have no environment yet: make bench fills .venv-bench")
    header = (
        "SST-2, MiniLM, batch 32",
        "peer, s",
        "ours, s",
        "times faster (range)",
        "peer, GB",
        "ours, GB",
        "accuracy, %",
    )
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    with tempfile.TemporaryDirectory() as folder:
        caches = Path(folder)
        (caches / "data").mkdir()
        for name in ("train", "dev"):  # without the test split, which the peer does not score either
            os.symlink(DATA / f"{name}.jsonl", caches / "data" / f"{name}.jsonl")
        for name in args.only or ROWS:
            row = ROWS[name]
            if row.caches != "cold":
                ours(row, caches)  # what is compiled once
            rounds = []
            for _ in range(args.rounds):
                rounds.append((peer(row), ours(row, caches)))
                print(f"{row.name}: {rounds[-1][0]} {rounds[-1][1]}", file=sys.stderr, flush=True)
            lines.append(_line(row.name, rounds))
            print(lines[-1], flush=True)
    if args.only is None:
        (ROOT / "docs" / "benchmarks.md").write_text(_page(lines), encoding="utf-8")
    print("\n".join(lines))


def _line(name: str, rounds: list[tuple[Ran, Ran]]) -> str:
    ratios = sorted(theirs.seconds / mine.seconds for theirs, mine in rounds)
    cells = [name]
    cells += [f"{median(r[i].seconds for r in rounds):.1f}" for i in (0, 1)]
    cells.append(f"{median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")
    cells += [f"{median(r[i].memory for r in rounds) / 1e9:.2f}" for i in (0, 1)]
    cells.append(", ".join(f"{100 * median(r[i].accuracy for r in rounds):.1f}" for i in (0, 1)))
    return "| " + " | ".join(cells) + " |"


def _page(lines: list[str]) -> str:
    """`docs/benchmarks.md`."""
    *_, explained = (__doc__ or "").strip().split("\n\n")
    return "\n".join(["# Benchmarks", "", f"Printed by `make bench`. {explained}", "", *lines, ""])


if __name__ == "__main__":
    main()
