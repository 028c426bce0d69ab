"""The README of an exported model: what it is of, how good it is and on what, and how to ask it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tl_jax.experiment import Experiment
from tl_jax.preparation import short_name

_IMAGES = """from transformers import pipeline

classify = pipeline("image-classification", FOLDER)
classify("PICTURE.jpg")"""
_USE = {
    "hf": """from transformers import pipeline

classify = pipeline("text-classification", FOLDER)
classify("a text of yours")""",
    "sentence-transformers": """import tl_jax as tl

model, variables = tl.load(FOLDER)  # model.info.labels names the logits
logits = model.apply(variables, model.processor(["a text of yours"]))["logits"]""",
    "language": """from transformers import pipeline

tell = pipeline("text-generation", FOLDER)
tell("Once upon a time")""",
    "tl_jax": """import tl_jax as tl

model, variables = tl.load(FOLDER)  # model.info.labels names the logits
logits = model.apply(variables, model.processor(["PICTURE.jpg"]))["logits"]""",
    "own": """import tl_jax as tl

model, variables = tl.load(FOLDER, model=YOUR_MODEL)""",
}
_LIBRARY = {"hf": "transformers", "sentence-transformers": "sentence-transformers", "tl_jax": "tl_jax", "own": "tl_jax"}
_SHOWN = ("accuracy", "macro_f1", "perplexity", "token_accuracy", "loss")


def model_card(experiment: Experiment, manifest: Mapping[str, Any], summary: Mapping[str, Any], form: str) -> str:
    """Markdown with the front matter that the Hugging Face hub reads.

    `form` is what the folder is: "hf", "sentence-transformers", "tl_jax" for a family of which transformers has no
    class, or "own" for somebody's own network. Nothing of this machine is in it: of files and folders only their names.
    """
    labels, base = manifest["labels"], manifest["model"]["source"]
    on_hub = bool(manifest["model"].get("revision"))
    origin = "a network in memory" if base is None else base if on_hub else short_name(base)
    images = "image" in manifest["columns"]
    inputs = "images" if images else "texts"
    tag = f"{inputs[:-1]}-classification" if labels else "text-generation"
    front: dict[str, Any] = {"library_name": _LIBRARY[form], "pipeline_tag": tag}
    front |= {"tags": ["tl_jax", tag], "metrics": ["accuracy", "f1"] if labels else ["perplexity"]}
    front |= {"base_model": base} if on_hub else {}
    steps = summary["steps"]
    how = f"`{manifest.get('method') or experiment.method}`" + (
        f", {steps:,} steps of {manifest['recipe']['batch_size']}" if steps else ""
    )
    lines = [
        "---",
        *(f"{key}: {json.dumps(value)}" for key, value in front.items()),  # JSON is YAML
        "---",
        "",
        f"# {short_name(experiment.out or '')}",
        "",
        (f"Tells {len(labels)} labels of {inputs} apart: {', '.join(labels)}. " if labels else "Continues texts. ")
        + f"Made from {origin} with tl_jax {manifest['tl_jax']} by {how}.",
        "",
    ]
    on = summary["scored_on"]
    if on:
        count = manifest["data"]["examples"][on]
        chose = ", which also chose the best step" if on == "validation" and steps else ", scored once, at the end"
        lines += [f"On {count:,} {on} examples{chose}:", "", "| | |", "|---|---|"]
        lines += [f"| {key} | {summary['metrics'][key]:.4f} |" for key in _SHOWN if key in summary["metrics"]]
        lines += ["", *_by_class(summary["metrics"].get("per_class", {}))]
    lines += [
        "What the base model has learnt is still in it, its biases too; other "
        f"{inputs} than those above may fare worse.",
        "",
        "```python",
        _IMAGES if images and form == "hf" else _USE[form if labels else "language"],
        "```",
        "",
    ]
    return "\n".join(lines)


def _by_class(figures: Mapping[str, Mapping[str, Any]]) -> list[str]:
    if not figures:
        return []
    columns = list(next(iter(figures.values())))
    rows = [f"| {' | '.join(('label', *columns))} |", "|---" * (1 + len(columns)) + "|"]
    for label, row in figures.items():
        cells = (f"{row[c]:.3f}" if isinstance(row[c], float) and c != "support" else f"{row[c]:g}" for c in columns)
        rows.append(f"| {label.replace('|', chr(92) + '|')} | {' | '.join(cells)} |")
    return [*rows, ""]
