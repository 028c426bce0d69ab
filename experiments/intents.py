"""Bank customers' intents: Banking77 (Casanueva et al. 2020), 77 of them, from MiniLM, at 4, 16 and all labels a class.

    python experiments/intents.py MODEL      MODEL: a folder of all-MiniLM-L6-v2, or its name on the hub

compares no transfer (`scratch`) with three transfers on the 3,080 test questions, seeds 0, 1, 2, and prints the table
and what it shows; the curve lies in runs/intents. A finished cell is not run again: a stopped comparison goes on. It
takes an hour and a half on two cores.

    method      labels a class    score, %  seeds  parameters trained
    scratch                  4  46.3 ± 5.7      3          22,595,021
    scratch                 16  72.7 ± 2.0      3          22,595,021
    scratch  all (116 a class)  89.5 ± 0.6      3          22,595,021
    probe                    4  76.1 ± 3.3      3              29,645
    probe                   16  87.8 ± 0.8      3              29,645
    probe    all (116 a class)  92.9 ± 0.0      3              29,645
    full                     4  73.5 ± 1.7      3          22,595,021
    full                    16  87.4 ± 1.0      3          22,595,021
    full     all (116 a class)  93.2 ± 0.4      3          22,595,021
    lp_ft                    4  77.1 ± 3.6      3          22,595,021
    lp_ft                   16  88.4 ± 2.0      3          22,595,021
    lp_ft    all (116 a class)  93.2 ± 0.5      3          22,595,021

At 4 labels a class every transfer is worth about 30 points over scratch, which needs four to seven times the labels to
match, and `lp_ft` is a point ahead of the probe; at 16 they are worth 15 points, and with all labels 3.5, and no
transfer is told apart from another.

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
