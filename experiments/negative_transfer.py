"""Where a transfer does not help: is a sentence grammatical? CoLA (Warstadt et al. 2019) from MiniLM.

    python experiments/negative_transfer.py MODEL      MODEL: a folder of all-MiniLM-L6-v2, or its name on the hub

compares no transfer (`scratch`) with frozen features (`probe`) and with fine-tuning (`full`), trained on as many
grammatical sentences as others, on the 527 sentences of the in-domain dev set, seeds 0, 1, 2, and prints the table and
what it shows; the curve lies in runs/negative_transfer. A finished cell is not run again: a stopped comparison goes on.
It takes about twenty minutes on two cores.

    method   labels a class     score, %  seeds  parameters trained
    scratch              32  66.0 ± 12.3      3          22,566,146
    scratch             512  65.0 ± 18.5      3          22,566,146
    probe                32  49.0 ±  6.5      3                 770
    probe               512  52.2 ±  5.4      3                 770
    full                 32  53.7 ±  9.7      3          22,566,146
    full                512  62.4 ± 13.9      3          22,566,146

The transfer hurts at 32 labels a class: the linear probe is worth −17 points [−27, −7] against scratch. Nothing else is
told apart. It is no skill of scratch, which ends near calling every sentence grammatical, as 69 % of the dev set are.
The features were trained to tell what sentences mean, and know too little of their form to do even that well.

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
    print(tl.compare(model, train, eval_data=dev, methods=METHODS, shots="32,512", seeds=3, out=out, resume=True))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: python {sys.argv[0]} MODEL")
    main(sys.argv[1])
