"""What the reference implementation computes at every stage: a program for a process of its own, so that torch never
enters ours. Nothing imports it.

    python -P reference_process.py PLACE

PLACE holds request.json and inputs.npz; answer.json and outputs.npz are put beside them.
"""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers


def main(place: Path) -> None:
    """Loads the model of the request with transformers and keeps what its stages write for the inputs."""
    request = json.loads((place / "request.json").read_text(encoding="utf-8"))
    folder = Path(request["folder"])
    model = getattr(transformers, request["class"]).from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", trust_remote_code=False, local_files_only=True
    )
    model = model.eval().to(getattr(torch, request["dtype"]))
    modules = {stage: _find(model, names) for stage, names in request["modules"].items()}
    calls: dict[Any, list[tuple[Any, Any]]] = {}

    def keep(module: Any, args: Any, kwargs: Any, output: Any) -> None:
        given = args or tuple(kwargs.values()) or (None,)
        calls.setdefault(module, []).append((given[0], _first(output)))

    for module in {module for module in modules.values() if module is not None}:
        module.register_forward_hook(keep, with_kwargs=True)
    with np.load(place / "inputs.npz") as inputs:
        given = {name: torch.as_tensor(inputs[name]) for name in inputs}
    taken = inspect.signature(model.forward).parameters
    with torch.no_grad():
        out = model(**{name: value.long() for name, value in given.items() if name in taken})
        called = {stage: _next(calls.get(module)) for stage, module in modules.items()}
        found = {stage: called[stage][1] for stage, key in request["writes"].items() if key == "hidden"}
        hidden = next((value for value in reversed(found.values()) if value is not None), None)
        for stage, key in request["writes"].items():
            if key == "pooled":
                pooled = found[stage] = _pooled(request, out, hidden, given["attention_mask"], called)
            elif key == "logits":
                found[stage] = out.logits if "logits" in out else _dense(folder / request["dense"], pooled)
    arrays = {stage: value.numpy() for stage, value in found.items() if value is not None}
    np.savez(place / "outputs.npz", **arrays)
    answer = {
        "class": type(model).__name__,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "ids": _ids(request),
    }
    (place / "answer.json").write_text(json.dumps(answer), encoding="utf-8")


def _ids(request: dict[str, Any]) -> list[list[int]] | str:
    """The tokens of the texts, or why there are none."""
    ids: list[list[int]] = []
    try:
        if request["texts"]:
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                request["folder"], trust_remote_code=False, local_files_only=True
            )
        for texts, pairs in request["texts"]:
            ids += tokenizer(texts, pairs, truncation=True, max_length=request["length"])["input_ids"]
    except Exception as e:  # what a tokenizer needs installed, and what it raises, is its own
        return f"{type(e).__name__}: {e}".splitlines()[0]
    return ids


def _find(model: Any, names: list[str]) -> Any:
    """The module of one of these names, with or without the prefix of the model inside a class; None for none."""
    modules, base = dict(model.named_modules()), f"{model.base_model_prefix}."
    spelt = (spelling for name in names for spelling in (name, base + name, name.removeprefix(base)))
    return next((modules[name] for name in spelt if name and name in modules), None)


def _next(calls: list[Any] | None) -> tuple[Any, Any]:
    """A module's call: where several stages share it, theirs in turn."""
    if not calls:
        return None, None
    return calls.pop(0) if len(calls) > 1 else calls[0]


def _first(output: Any) -> Any:
    while isinstance(output, tuple | list | dict):
        output = next(iter(output.values() if isinstance(output, dict) else output), None)
    return output


def _pooled(request: dict[str, Any], out: Any, hidden: Any, mask: Any, called: dict[str, Any]) -> Any:
    """The vector of each text: what the class gives, what its last layer reads, or what sentence-transformers makes."""
    if request["pooling"] == "pooler":
        return out["pooler_output"] if "pooler_output" in out else called.get("head", (None, None))[0]
    if hidden is None:
        return None
    if request["pooling"] == "cls":
        return hidden[:, 0]
    if request["pooling"] == "last":
        return hidden[torch.arange(len(hidden)), mask.sum(1) - 1]
    weight = mask[..., None].to(hidden.dtype)
    return (hidden * weight).sum(1) / weight.sum(1)


def _dense(folder: Path, pooled: Any) -> Any:
    """The head of a sentence-transformers folder."""
    if (folder / "model.safetensors").is_file():
        from safetensors.torch import load_file

        tensors = load_file(folder / "model.safetensors")
    else:
        tensors = torch.load(folder / "pytorch_model.bin", weights_only=True)
    kernel, bias = (tensors[f"linear.{part}"].to(pooled.dtype) for part in ("weight", "bias"))
    return pooled @ kernel.T + bias


if __name__ == "__main__":
    main(Path(sys.argv[1]))
