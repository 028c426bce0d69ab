"""How long a user waits before anything happens: import, help, a model loaded. Prints medians over fresh processes.

make bench            or            python benchmarks/startup.py --runs 9
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent

IMPORT = """
import time
start = time.perf_counter()
import tl_jax
print(time.perf_counter() - start)
"""
LOAD = """
import sys, time
import tl_jax
load = tl_jax.load  # brings jax, Flax and the readers with it
import jax
jax.devices()       # starts the backend
start = time.perf_counter()
model, variables = load(sys.argv[1])
print(time.perf_counter() - start)
"""


def main() -> None:
    """Measures, in this Python's environment, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7, help="fresh processes for each figure (default: 7)")
    runs = parser.parse_args().runs
    model = _python(str(ROOT / "demo" / "model.py")).strip()
    rows: tuple[tuple[str, float, Callable[[], float]], ...] = (
        ("import tl_jax", 0.1, lambda: float(_python("-c", IMPORT))),
        ("tl-jax --help, whole process", 0.3, lambda: _wall("-m", "tl_jax", "--help")),
        ("tl-jax finetune --help, whole process", 0.3, lambda: _wall("-m", "tl_jax", "finetune", "--help")),
        ("MiniLM loaded, after imports", 0.5, lambda: float(_python("-c", LOAD, model))),
    )
    print(f"seconds: median (range) of {runs} fresh processes, after one that fills the file cache")
    for what, limit, measure in rows:
        measure()
        times = sorted(measure() for _ in range(runs))
        middle = median(times)
        verdict = "met" if middle < limit else "missed"
        print(f"{what:<38} {middle:.3f} ({times[0]:.3f} to {times[-1]:.3f}), below {limit} wanted: {verdict}")


def _python(*arguments: str) -> str:
    """What this Python prints, given `arguments`."""
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout


def _wall(*arguments: str) -> float:
    start = time.perf_counter()
    _python(*arguments)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
