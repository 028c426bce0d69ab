"""Intents of bank customers: Banking77 (Casanueva et al. 2020), 77 intents, from MiniLM, against no transfer at all.

    python experiments/intents.py MODEL [SIZES]     MODEL: a folder of all-MiniLM-L6-v2, or its name on the hub

compares scratch, probe, full and lp_ft at 4 and 16 labels a class and at all of them (or at SIZES, such as 4,16), three
seeds each, on the 3,080 test queries, and prints table and verdict. A finished cell is not run again and a stopped
comparison goes on, so it can be made in parts.

The data are a folder t_banking77 of train and test .jsonl under TL_JAX_DATA (default ../shared/data).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import tl_jax as tl

DATA = Path(__file__).resolve().parents[1] / os.environ.get("TL_JAX_DATA", "../shared/data") / "t_banking77"


def main(model: str, shots: str) -> None:
    """Run what is not finished, and print what all of it shows."""
    methods = "scratch,probe,full,lp_ft"
    print(tl.compare(model, DATA, methods=methods, shots=shots, seeds=3, out="runs/intents", resume=True))


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(f"usage: python {sys.argv[0]} MODEL [SIZES]")
    main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "4,16,all")
