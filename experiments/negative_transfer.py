"""Where frozen features do not help: is a sentence grammatical? CoLA (Warstadt et al. 2019) from MiniLM.

    python experiments/negative_transfer.py MODEL      MODEL: a folder of all-MiniLM-L6-v2, or its name on the hub

compares no transfer (`scratch`) with frozen features (`probe`) and with fine-tuning (`full`) on the 527 sentences of
the in-domain dev set, seeds 0, 1, 2, and prints the table and what it shows; the curve lies in
runs/negative_transfer. A finished cell is not run again: a stopped comparison goes on.

The data are a folder t_cola of .jsonl files under TL_JAX_DATA (default ../shared/data).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import tl_jax as tl

DATA = Path(__file__).resolve().parents[1] / os.environ.get("TL_JAX_DATA", "../shared/data") / "t_cola"
METHODS = ("scratch", "probe", "full")


def main(model: str) -> None:
    """Run the cells that are not finished, and print the comparison."""
    train, dev = str(DATA / "in_domain_train.jsonl"), str(DATA / "in_domain_dev.jsonl")
    out = "runs/negative_transfer"
    print(tl.compare(model, train, eval_data=dev, methods=METHODS, shots="32,all", seeds=3, out=out, resume=True))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: python {sys.argv[0]} MODEL")
    main(sys.argv[1])
