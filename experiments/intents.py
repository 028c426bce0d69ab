"""Bank customers' intents: Banking77 (Casanueva et al. 2020), 77 of them, from MiniLM, at 4, 16 and all labels a class.

    python experiments/intents.py MODEL      MODEL: a folder of all-MiniLM-L6-v2, or its name on the hub

compares no transfer (`scratch`) with three transfers on the 3,080 test questions, seeds 0, 1, 2, and prints the table
and what it shows; the curve lies in runs/intents. A finished cell is not run again: a stopped comparison goes on.

The data are a folder t_banking77 of train and test .jsonl under TL_JAX_DATA (default ../shared/data).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import tl_jax as tl

DATA = Path(__file__).resolve().parents[1] / os.environ.get("TL_JAX_DATA", "../shared/data") / "t_banking77"
METHODS = ("scratch", "probe", "full", "lp_ft")


def main(model: str) -> None:
    """Run the cells that are not finished, and print the comparison."""
    print(tl.compare(model, str(DATA), methods=METHODS, shots="4,16,all", seeds=3, out="runs/intents", resume=True))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: python {sys.argv[0]} MODEL")
    main(sys.argv[1])
