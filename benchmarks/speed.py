"""How long a fine-tune takes beside what a user would pick instead, and how much memory: SST-2 from MiniLM, batch 32.

    make bench                                    all of it, over an hour on two cores; fills .venv-bench for the peer
    python benchmarks/speed.py --only full        one table of the page; --rounds N

Peer and ours alternate, each a process of its own from start to end, evaluation on the dev set after every epoch
included, with equal threads; each round has a seed of its own. Printed are the median seconds, the median ratio of the
rounds and its range, the peak resident memory that the operating system reports (median and most), and the mean
accuracy with its standard error. Both are at the rate they have without a word, the peer 5e-5 (1e-3 for a head alone).
Where it does not say otherwise, what a run before compiled is there, and no features are.

docs/benchmarks.md is written: the tables that were measured, the others as they were.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median, stdev

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "demo"))

import model as minilm  # noqa: E402  the weights that the demo fetches

DATA = ROOT / os.environ.get("TL_JAX_DATA", "../shared/data") / "t_sst2"
PEERS = Path(os.environ.get("TL_JAX_PEERS", ROOT / ".venv-bench" / "bin" / "python"))  # has torch and transformers
PAGE = ROOT / "docs" / "benchmarks.md"


@dataclass(frozen=True)
class Ran:
    """A process that ended: seconds, peak memory in bytes, accuracy on the dev set."""

    seconds: float
    memory: int
    accuracy: float


@dataclass(frozen=True)
class Ours:
    """What we do for a purpose, and what of ours is emptied before each round."""

    name: str
    arguments: tuple[str, ...]
    emptied: tuple[str, ...] = ()  # "features", "compiled"


@dataclass(frozen=True)
class Purpose:
    """What the peer does for a purpose, and what of ours stands beside it in the same rounds."""

    name: str
    peer: tuple[str, ...]
    ours: tuple[Ours, ...]


_CELLS = ("", "seconds", "times faster (range)", "peak memory, GB (most)", "accuracy, % (error)")
_HEADER = ("| " + " | ".join(_CELLS) + " |", "|" + "---|" * len(_CELLS))
_FULL = ("--method", "full", "--epochs", "1")
_LAST = ("--method", "last_layers:k=2", "--epochs", "3")
PURPOSES = {
    "full": Purpose(
        "every parameter, 1 epoch",
        ("--train", "full", "--epochs", "1", "--lr", "5e-5"),
        (Ours("`full`", _FULL), Ours("`full`, nothing compiled before", _FULL, ("compiled",))),
    ),
    "head": Purpose(
        "the head alone, 10 epochs",
        ("--train", "head", "--epochs", "10", "--lr", "1e-3"),
        (
            Ours("`probe`", ("--method", "probe"), ("features",)),
            Ours("`probe`, features there", ("--method", "probe")),
            Ours("`probe:at=auto`", ("--method", "probe:at=auto"), ("features",)),
            Ours("`probe:at=auto`, features there", ("--method", "probe:at=auto")),
        ),
    ),
    "last_layers": Purpose(
        "the last two layers, 3 epochs",
        ("--train", "last_layers", "--epochs", "3", "--lr", "5e-5"),
        (Ours("`last_layers:k=2`", _LAST, ("features",)),),
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


def peer(purpose: Purpose, seed: int) -> Ran:
    """The peer's process."""
    command = [str(PEERS), "benchmarks/peers/trainer.py", str(minilm.folder()), str(DATA), *purpose.peer]
    return run([*command, "--seed", str(seed)], {}, lambda said: float(json.loads(said.splitlines()[-1])["accuracy"]))


def ours(way: Ours, caches: Path, seed: int) -> Ran:
    """Our process."""
    for name in way.emptied:
        shutil.rmtree(caches / name, ignore_errors=True)
    with tempfile.TemporaryDirectory() as out:
        data = ["--data", str(caches / "data"), "--out", f"{out}/run", "--seed", str(seed)]
        command = [sys.executable, "-m", "tl_jax", "finetune", "--model", str(minilm.folder()), *data, *way.arguments]
        environment = {"TL_JAX_CACHE": str(caches)}
        return run(command, environment, lambda said: float(re.findall(r"accuracy\s+([0-9.]+)", said)[-1]))


def measure(purpose: Purpose, caches: Path, rounds: int) -> list[str]:
    """The lines of the table for a purpose."""
    for way in purpose.ours:
        if "compiled" not in way.emptied:
            ours(way, caches, seed=0)  # what is compiled once
    found: list[list[Ran]] = []
    for seed in range(rounds):
        found.append([peer(purpose, seed), *(ours(way, caches, seed) for way in purpose.ours)])
        print(f"{purpose.name}, round {seed + 1}: {found[-1]}", file=sys.stderr, flush=True)
    peers, *others = zip(*found, strict=True)
    lines = [_line("Trainer", peers, ())]
    return lines + [_line(way.name, runs, peers) for way, runs in zip(purpose.ours, others, strict=True)]


def main() -> None:
    """Measures and prints, and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(PURPOSES), action="append", help="a part of the table (default: all)")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    if not PEERS.is_file():
        sys.exit("error: the peers have no environment yet: make bench fills .venv-bench")
    with tempfile.TemporaryDirectory() as folder:
        caches = Path(folder)
        (caches / "data").mkdir()
        for name in ("train", "dev"):  # without the test split, which the peer does not score either
            os.symlink(DATA / f"{name}.jsonl", caches / "data" / f"{name}.jsonl")
        for name in args.only or PURPOSES:
            table = "\n".join([*_HEADER, *measure(PURPOSES[name], caches, args.rounds)])
            print(table, flush=True)
            there = PAGE.read_text(encoding="utf-8") if PAGE.is_file() else ""
            PAGE.write_text(_page(there, PURPOSES[name], table), encoding="utf-8")


def _line(name: str, runs: Sequence[Ran], peers: Sequence[Ran]) -> str:
    """Medians of the rounds; of the accuracy the mean and its standard error."""
    ratios = sorted(theirs.seconds / mine.seconds for theirs, mine in zip(peers, runs, strict=bool(peers)))
    faster = f"{median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})" if ratios else ""
    memory, scores = [ran.memory / 1e9 for ran in runs], [100 * ran.accuracy for ran in runs]
    error = f" ({stdev(scores) / len(scores) ** 0.5:.1f})" if len(scores) > 1 else ""
    seconds = f"{median(ran.seconds for ran in runs):.1f}"
    cells = [name, seconds, faster, f"{median(memory):.2f} ({max(memory):.2f})", f"{fmean(scores):.1f}{error}"]
    return "| " + " | ".join(cells) + " |"


def _page(there: str, purpose: Purpose, table: str) -> str:
    """`docs/benchmarks.md` with a purpose's table in it, and the others as they are `there`."""
    *_, explained, _ = (__doc__ or "").strip().split("\n\n")
    tables = dict(part.strip().split("\n\n", 1) for part in there.split("\n## ")[1:]) | {_title(purpose): table}
    order = [title for title in map(_title, PURPOSES.values()) if title in tables]
    parts = ["# Benchmarks", "SST-2 from MiniLM, batch 32; written by `make bench`.", explained, _versions()]
    return "\n\n".join([*parts, *(f"## {title}\n\n{tables[title]}" for title in order)]) + "\n"


def _versions() -> str:
    """What was measured last, and on what."""
    code = "from importlib.metadata import version as v; print(', '.join(f'{n} {v(n)}' for n in %r))"
    found = [
        subprocess.run([python, "-c", code % (names,)], capture_output=True, text=True, check=True).stdout.strip()
        for python, names in ((sys.executable, ("jax", "flax", "optax")), (str(PEERS), ("transformers", "torch")))
    ]
    return f"{found[0]}; {found[1]}; {len(os.sched_getaffinity(0))} CPU cores."


def _title(purpose: Purpose) -> str:
    return purpose.name[0].upper() + purpose.name[1:]


if __name__ == "__main__":
    main()
