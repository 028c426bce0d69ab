"""Sentiment of film reviews: SST-2, sentence level (Socher et al. 2013), from MiniLM, one epoch of 6,920 sentences.

    python experiments/sentiment.py MODEL      MODEL: a folder of all-MiniLM-L6-v2, or its name on the hub

prints the accuracy on the 872 dev sentences by method, mean and range over seeds 0, 1, 2 (or the seeds given after
MODEL). A finished run is not run again, and a stopped one goes on, so it can be printed in parts.

    method           accuracy          range
    probe               78.9%    78.9% 78.9%
    last_layers:k=2     85.6%    85.1% 86.0%
    lora:rank=8         86.1%    85.8% 86.5%
    full                87.4%    87.0% 88.1%

The data are a folder t_sst2 of train, dev and test .jsonl under TL_JAX_DATA (default ../shared/data). One of the runs
alone: `tl-jax finetune experiments/sentiment.py --method lora:rank=8`.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path

import tl_jax as tl

DATA = Path(__file__).resolve().parents[1] / os.environ.get("TL_JAX_DATA", "../shared/data") / "t_sst2"
METHODS = ("probe", "last_layers:k=2", "lora:rank=8", "full")

experiment = tl.Experiment(
    model="sentence-transformers/all-MiniLM-L6-v2", data=str(DATA), method="full", epochs=1, batch_size=32
)


def main(model: str, seeds: list[int]) -> None:
    """Run every method and seed (a finished run is not run again, a stopped one goes on) and print the table."""
    print(f"{'method':<16} {'accuracy':>8}  {'range':>13}")
    for method in METHODS:
        scores = []
        for seed in seeds:
            out = f"runs/sentiment/{method.replace(':', '-')}-{seed}"
            one = dataclasses.replace(experiment, model=model, method=method, seed=seed, out=out)
            scores.append(tl.finetune(one, resume=True, quiet=True).summary["validation"]["accuracy"])
        mean, spread = sum(scores) / len(scores), f"{min(scores):.1%} {max(scores):.1%}"
        print(f"{method:<16} {mean:>8.1%}  {spread:>13}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(f"usage: python {sys.argv[0]} MODEL [SEED …]")
    main(sys.argv[1], [int(seed) for seed in sys.argv[2:]] or [0, 1, 2])
