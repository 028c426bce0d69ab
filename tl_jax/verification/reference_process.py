"""What the reference implementation computes at every stage: a program for a process of its own, so that torch never
enters ours. Nothing imports it.

    python -P reference_process.py PLACE

PLACE holds request.json and inputs.npz; answer.json and outputs.npz are put beside them.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable
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
    dtype = getattr(torch, request["dtype"])
    model = model.eval().to(dtype)
    model.config.use_cache = False
    modules = _modules(model, request["parameters"])
    calls: dict[Any, list[tuple[Any, Any]]] = {}

    def keep(module: Any, args: Any, kwargs: Any, output: Any) -> None:
        given = args or tuple(kwargs.values()) or (None,)
        calls.setdefault(module, []).append((given[0], _first(output)))

    for module in {module for found in modules.values() for module in found}:
        module.register_forward_hook(keep, with_kwargs=True)
    with np.load(place / "inputs.npz") as inputs:
        given = {name: torch.as_tensor(inputs[name]) for name in inputs}
    given = {name: value.to(dtype) if value.is_floating_point() else value.long() for name, value in given.items()}
    taken = inspect.signature(model.forward).parameters
    asked = _prepared(request)
    # Norms and the softmax of attention are in float32 whatever they are given: in float64 nothing is to be narrowed.
    torch.float32 = dtype
    with torch.no_grad():
        out = model(**{name: value for name, value in given.items() if name in taken})
        called = {stage: _next(modules.get(stage, []), calls) for stage in request["writes"]}
        found = {stage: called[stage][1] for stage, key in request["writes"].items() if key == "hidden"}
        hidden = next((value for value in reversed(found.values()) if value is not None), None)
        for stage, key in request["writes"].items():
            if key == "pooled":
                pooled = found[stage] = _pooled(request, out, hidden, given.get("attention_mask"), called)
            elif key == "logits":
                found[stage] = out.logits if "logits" in out else _dense(folder / request["dense"], pooled)
    arrays = {stage: value.numpy() for stage, value in found.items() if value is not None}
    np.savez(place / "outputs.npz", **arrays)
    answer = {
        "class": type(model).__name__,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "prepared": asked,
    }
    (place / "answer.json").write_text(json.dumps(answer), encoding="utf-8")


def _prepared(request: dict[str, Any]) -> list[Any] | str:
    """What the folder's own processor makes of what is asked, or why it makes none."""
    ways: dict[str, Callable[..., list[Any]]] = {"texts": _ids, "picture": _image}
    way = next((ways[key] for key in request["asked"] if key in ways), None)
    try:
        return way(request["folder"], **request["asked"]) if way else []
    except Exception as e:  # what a processor needs installed, and what it raises, is its own
        return f"{type(e).__name__}: {e}".splitlines()[0]


def _ids(folder: str, texts: list[Any], length: int) -> list[Any]:
    """The tokens of texts, and of pairs of texts."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    ids: list[Any] = []
    for first, pairs in texts:
        ids += tokenizer(first, pairs, truncation=True, max_length=length)["input_ids"]
    return ids


def _image(folder: str, picture: list[Any]) -> list[Any]:
    """A picture as the model reads it, channels last."""
    from PIL import Image

    processor = transformers.AutoImageProcessor.from_pretrained(
        folder, backend="pil", trust_remote_code=False, local_files_only=True
    )
    made = processor([Image.fromarray(np.asarray(picture, np.uint8))], return_tensors="np")["pixel_values"]
    return list(np.moveaxis(np.asarray(made), 1, -1).tolist())


def _modules(model: Any, parameters: dict[str, list[list[str]]]) -> dict[str, list[Any]]:
    """By stage the modules that hold its parameters and none of another stage's, the outermost first.

    A name counts with or without the prefix of the model inside a class. What surrounds the innermost module belongs to
    the stage, for it has no parameters: the sum behind a residual branch, the pooling of a stem.
    """
    names, base = [name for name, _ in model.named_parameters(remove_duplicate=False)], f"{model.base_model_prefix}."
    owners: dict[str, set[str]] = {}
    for stage, known in parameters.items():
        spelt = {way for spellings in known for n in spellings for way in (n, base + n, n.removeprefix(base))}
        for name in spelt.intersection(names):
            owners.setdefault(name, set()).add(stage)
    found: dict[str, list[Any]] = {}
    for place, module in model.named_modules():
        inside = {name: owners[name] for name in names if name.startswith(f"{place}.") and name in owners}
        for stage in set.intersection(*inside.values()) if inside else ():
            if sum(stage in of for of in owners.values()) == len(inside):
                found.setdefault(stage, []).append(module)
    return found


def _next(modules: list[Any], calls: dict[Any, list[tuple[Any, Any]]]) -> tuple[Any, Any]:
    """The call of the outermost of these modules that is called; where several stages share it, theirs in turn."""
    own = next((calls[module] for module in modules if module in calls), [(None, None)])
    return own.pop(0) if len(own) > 1 else own[0]


def _first(output: Any) -> Any:
    while isinstance(output, tuple | list | dict):
        output = next(iter(output.values() if isinstance(output, dict) else output), None)
    return output


def _pooled(request: dict[str, Any], out: Any, hidden: Any, mask: Any, called: dict[str, Any]) -> Any:
    """The vector of each example: what the class gives, what its last layer reads, or what pooling makes of tokens."""
    if request["pooling"] == "pooler":
        pooled = out["pooler_output"] if "pooler_output" in out else called.get("head", (None, None))[0]
        return None if pooled is None else pooled.flatten(1)
    if hidden is None:
        return None
    if request["pooling"] == "cls":
        return hidden[:, 0]
    if mask is None:  # of an image: the tokens in front of its patches are no part of it
        mask = torch.ones(hidden.shape[:2], dtype=torch.long)
        mask[:, : request["front"]] = 0
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
