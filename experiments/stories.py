"""A story teller learns plays: stories260K (a Llama of 260,032 parameters, TinyStories) on Zora Neale Hurston's plays.

    python experiments/stories.py      STEPS=… for another number of steps than 300

fine-tunes on the first nine tenths of the text (212 kB), 300 steps of 16 windows of up to 256 tokens, seeds 0, 1, 2,
each method at its default rate, and prints perplexity a token on the last tenth ± half its 95 % interval over the
seeds, and how two prompts go on. Runs are kept in runs/stories; a stopped one goes on. It takes an hour on a core.

    method                                perplexity on the last tenth
    as it came                             122.59
    full                                     9.24 ± 0.01
    lora:rank=8,targets=attention|mlp        9.75 ± 0.11
    scratch                                 30.63 ± 4.36

What the stories taught of English is worth a factor of three over the same 300 steps from random weights. Drawn at
temperature 0.7 with seed 0, the prompt first, and cut short here:

    full       LIGE: (There is paste: Ore, I ain't listenin' to keer?

               DAISY
               (splaces) Well, I went to Dave. Tudge, I'm goin' to look like
    lora       LIGE: A huspecusedly: All the arms. I got to keep it is de boards the steps.

               JIM
               Dat's right.
    scratch    LIGE: out hure Iisswe: Ore S

               DMisee gg and  jAD- dhl
                (s the,

It has learnt who speaks and what a stage direction is, and spells the dialect; it makes no sense, as 260,032 parameters
do not.

The weights and the corpus are w_stories260k_llama and t_lm_corpora under TL_JAX_DATA (default ../shared/data).
"""

from __future__ import annotations

import os
from pathlib import Path

import tl_jax as tl
from tl_jax.analysis.intervals import interval
from tl_jax.data import PassShape, infer_completions
from tl_jax.data import open as open_data
from tl_jax.tasks import CausalLM
from tl_jax.training.evaluation import evaluate
from tl_jax.training.examples import prepare_windows

DATA = Path(__file__).resolve().parents[1] / os.environ.get("TL_JAX_DATA", "../shared/data")
MODEL, CORPUS = DATA / "w_stories260k_llama", DATA / "t_lm_corpora" / "zora_neale_hurston.txt"
OUT = Path("runs/stories")
METHODS = ("full", "lora:rank=8,targets=attention|mlp", "scratch")
LENGTH, STEPS, SEEDS = 256, int(os.environ.get("STEPS", "300")), (0, 1, 2)
PROMPTS = ("LIGE:", "Once upon a time")


def split() -> tuple[Path, Path]:
    """The first nine tenths of the corpus to learn, the last to be scored on."""
    text = CORPUS.read_text("utf-8")
    at = text.index("\n\n", len(text) * 9 // 10)
    OUT.mkdir(parents=True, exist_ok=True)
    for name, part in (("train", text[:at]), ("test", text[at:])):
        (OUT / f"{name}.txt").write_text(part, "utf-8")
    return OUT / "train.txt", OUT / "test.txt"


def base(test: Path) -> float:
    """The perplexity of the model as it came."""
    model, variables = tl.load(str(MODEL))
    dataset = open_data(test)["train"]
    examples = prepare_windows(CausalLM(), dataset, infer_completions(dataset), model.processor, LENGTH).examples
    batches = PassShape(16, (LENGTH,)).over(examples, model.processor.pad_id)
    return float(evaluate(model, CausalLM(), variables, batches, "float32")["perplexity"])


def main() -> None:
    """Fine-tune by each method and seed, and print the table and the samples."""
    train, test = split()
    print(f"{'method':36}  perplexity on the last tenth")
    print(f"{'as it came':36}  {base(test):7.2f}")
    samples = {}
    for method in METHODS:
        found = []
        for seed in SEEDS:
            out = OUT / f"{method.partition(':')[0]}-{seed}"
            run = tl.finetune(
                str(MODEL),
                str(train),
                task=CausalLM(),
                eval_data=str(test),
                method=method,
                steps=STEPS,
                batch_size=16,
                max_length=LENGTH,
                seed=seed,
                out=str(out),
                resume=True,
                quiet=True,
            )
            found.append(run.metrics["perplexity"])
            samples.setdefault(method, run.generate(PROMPTS, max_new_tokens=80, temperature=0.7, seed=0))
        over = interval(found)
        print(f"{method:36}  {over.mean:7.2f} ± {over.half_width:.2f}")
    for method, texts in samples.items():
        for prompt, text in zip(PROMPTS, texts, strict=True):
            print(f"\n{method}, {prompt!r}:\n    " + f"{prompt}{text}".replace("\n", "\n    "))


if __name__ == "__main__":
    main()
