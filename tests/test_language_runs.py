"""Language models from end to end: texts and completions are learnt, scored, continued and taken out."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tl_jax as tl
from tests import tiny
from tests.tiny_language import ANIMALS, PLACES, story, write_llama, write_pairs
from tl_jax.cli.main import main
from tl_jax.errors import InputError
from tl_jax.pretrained import load

GIVEN = {"task": "causal_lm", "batch_size": 8, "max_length": 40, "lr": 1e-2, "quiet": True}
PROMPTS = [f"the {animal} sat on the" for animal in ANIMALS]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("language")
    write_llama(folder / "model")
    (folder / "story.txt").write_text(story(900))
    (folder / "new.txt").write_text(story(100, seed=1))
    (folder / "pairs").mkdir()
    write_pairs(folder / "pairs" / "train.jsonl", 120)
    write_pairs(folder / "pairs" / "validation.jsonl", 16, seed=2)  # one held out would be a place never seen
    write_pairs(folder / "new.jsonl", 24, seed=1)
    return folder


@pytest.fixture(scope="module")
def tuned(place):
    """`tuned(method, data, steps)` is a finished run, made once."""

    @cache
    def run(method: str, data: str = "story.txt", steps: int = 80) -> Any:
        test = place / {"story.txt": "new.txt", "pairs": "new.jsonl"}[data]
        out = place / "runs" / f"{method.replace(':', '-')}-{data}-{steps}"
        return tl.finetune(place / "model", place / data, eval_data=test, method=method, steps=steps, out=out, **GIVEN)

    return run


def perplexity_of(folder: Path, texts: list[str]) -> float:
    """By transformers, a text at a time: exp of the mean loss of all tokens but the first of each."""
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    total, count = 0.0, 0
    for text in texts:
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            mean = float(model(ids, labels=ids).loss)
        total, count = total + mean * (ids.shape[1] - 1), count + ids.shape[1] - 1
    return float(np.exp(total / count))


def test_a_text_is_learnt_and_scored_as_transformers_scores_it(tuned, place, tmp_path):
    run = tuned("full")
    assert run.metrics["perplexity"] < 4 < perplexity_of(place / "model", ["the cat sat on the mat."])
    assert run.metrics["perplexity"] == pytest.approx(np.exp(run.metrics["loss"]), rel=1e-6)
    assert run.metrics["token_accuracy"] > 0.6
    out = run.export(tmp_path / "out")
    texts = ["the cat sat on the mat.", "the owl sat on the wall. the fox", "zzz"]
    found = run.evaluate([{"text": text} for text in texts])
    assert found["perplexity"] == pytest.approx(perplexity_of(out, texts), rel=1e-4)
    assert "text-generation" in (out / "README.md").read_text()


def test_a_run_opens_as_it_ended(tuned):
    run = tuned("full")
    again = tl.open_run(run.folder, say=lambda text: None)
    assert again.generate(PROMPTS, max_new_tokens=8) == run.generate(PROMPTS, max_new_tokens=8)
    assert again.evaluate() == pytest.approx(run.metrics)
    assert tiny.digests(again.variables) == tiny.digests(run.variables)


def test_completions_are_learnt_with_their_end(tuned, tmp_path):
    import transformers

    run = tuned("full", "pairs")
    answers = run.predict(PROMPTS)
    assert answers == [
        {"text": prompt, "continuation": f" {end}."} for prompt, end in zip(PROMPTS, PLACES, strict=True)
    ]
    tell = transformers.pipeline("text-generation", model=str(run.export(tmp_path / "out")))
    for prompt, end in zip(PROMPTS, PLACES, strict=True):
        (said,) = tell(prompt, max_new_tokens=8, do_sample=False, return_tensors=True)
        told = tell.tokenizer.decode(said["generated_token_ids"], skip_special_tokens=True)
        assert told == f"{prompt} {end}."  # as a text, the pipeline would strip what it continues with


def test_prompts_are_not_what_is_scored(tuned):
    """Without its prompt a place is a guess among six; the prompts' own words are not in the figure."""
    run = tuned("full", "pairs")
    assert run.metrics["perplexity"] < 1.1
    right, wrong = (
        run.evaluate([{"prompt": PROMPTS[0], "completion": end}])["perplexity"] for end in (" mat.", " log.")
    )
    assert right < 1.1 and wrong > 3


@pytest.mark.parametrize("method", ["last_layers:k=1", "lora:rank=4", "scratch", "discriminative"])
def test_methods_learn(method, tuned, place):
    run = tuned(method, steps=60)
    first = next(
        json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines() if '"step"' in line
    )
    assert run.metrics["loss"] < first["loss"] - 0.5
    base = load(place / "model")[1]["params"]["embeddings"]["token"]["embedding"]
    same = np.array_equal(run.variables["params"]["embeddings"]["token"]["embedding"], base)
    assert same == (method.startswith(("last_layers", "lora")))


def test_the_command_continues_as_the_run_does(tuned, capsys):
    run = tuned("full")
    assert main(["predict", str(run.folder), *PROMPTS[:2], "--max-new-tokens", "6"]) == 0
    said = [json.loads(line)["continuation"] for line in capsys.readouterr().out.splitlines()]
    assert said == run.generate(PROMPTS[:2], max_new_tokens=6)


def test_samples_follow_the_seed(tuned):
    run = tuned("full")
    warm = {"max_new_tokens": 12, "temperature": 1.5}
    first = run.generate(PROMPTS, **warm, seed=1)
    assert first == run.generate(PROMPTS, **warm, seed=1) != run.generate(PROMPTS, **warm, seed=2)
    assert first == run.generate(PROMPTS, **warm, seed=1, batch_size=2)  # the place in the list, not in the batch
    parts = [run.generate(PROMPTS[at : at + 3], **warm, seed=1, first=at) for at in (0, 3)]
    assert first == parts[0] + parts[1]
    with pytest.raises(InputError, match=r"seed must be a whole number .* not 1\.5"):
        run.generate(PROMPTS, seed=1.5)


def test_the_default_method_is_full(place, tmp_path):
    table = tl.finetune(place / "model", place / "story.txt", dry_run=True, out=tmp_path / "run", **GIVEN)
    assert table.startswith("full:") and "epochs of 306 examples) of 8 × 40 tokens" in table  # windows of the passages


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"method": "probe"}, "probe solves a classifier's head, which a language model has none of"),
        ({"shots": 4}, "--shots counts examples of a class, and texts have none"),
        ({"max_length": 1}, "max_length 1 leaves no"),
        ({"max_length": 400}, "max_length 400 is more than the 48 positions the model has"),
        ({"task": "text_classification", "data": [("a b", "x"), ("c d", "y")] * 9}, "--pooling last classifies texts"),
    ],
)
def test_what_does_not_go_together_is_told(changes, said, place, tmp_path):
    given = {**GIVEN, "method": "full", "data": place / "story.txt", "out": tmp_path / "run", **changes}
    with pytest.raises(InputError, match=said):
        tl.finetune(place / "model", given.pop("data"), **given)


def test_an_encoder_is_no_language_model(place, tmp_path):
    folder = tiny.write_bert(tmp_path / "bert")
    with pytest.raises(InputError, match="a bert is an encoder and no language model"):
        tl.finetune(folder, place / "story.txt", out=tmp_path / "run", **GIVEN)


def test_an_empty_prompt_is_named_by_its_place_in_the_whole_list(tuned, monkeypatch):
    run = tuned("full")
    monkeypatch.setattr(type(run.model.processor), "ids", lambda self, texts: [np.arange(len(text)) for text in texts])
    with pytest.raises(InputError, match="prompt 9 has no tokens"):
        run.generate([*"abcdefghi", ""], batch_size=4)


def test_what_a_run_cannot_be_asked(tuned, place):
    run = tuned("full")
    with pytest.raises(InputError, match="max_new_tokens must be from 1 to 39"):
        run.generate(PROMPTS, max_new_tokens=40)
    with pytest.raises(InputError, match="list of texts"):
        run.generate("the cat")
    with pytest.raises(InputError, match="compare scores classifiers"):
        tl.compare(place / "model", place / "story.txt", methods=["full"], out=place / "cmp", **GIVEN)
