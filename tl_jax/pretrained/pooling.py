"""How a checkpoint makes one vector of a text: the `--pooling` choices, and what `auto` follows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from tl_jax.errors import InputError, did_you_mean
from tl_jax.pretrained.json_files import read_json, read_value

CHOICES = ("auto", "cls", "mean", "last", "pooler", "none")
MODES = ("cls", "mean", "last")  # those that a sentence-transformers folder can name
_NAMES = {"cls": "cls", "cls_token": "cls", "mean": "mean", "mean_tokens": "mean", "lasttoken": "last"}
_FLAG = "pooling_mode_"


@dataclass(frozen=True)
class Modules:
    """What a folder's modules.json says: the pooling, and the subfolder of a dense layer behind it, if any."""

    pooling: str
    dense: str | None = None


def read_modules(folder: Path) -> Modules | None:
    """The modules of a sentence-transformers folder; None for a folder without modules.json.

    Its normalisation is left out: it scales what similarities compare, not what a head reads.
    Raises `InputError` for chains that are not transformer, pooling, at most one dense layer, normalisation.
    """
    path = folder / "modules.json"
    if not path.is_file():
        return None
    try:
        modules = [(str(m["type"]).rpartition(".")[2], str(m["path"])) for m in read_value(path)]
    except (TypeError, KeyError):
        raise InputError(f"{path} is not a list of modules with type and path") from None
    kinds = [kind for kind, _ in modules if kind != "Normalize"]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Dense"]):
        raise InputError(
            f"{path} chains {', '.join(kinds)}, of which we compute Transformer, Pooling and at most one Dense; "
            "choose a pooling to use the transformer alone: --pooling mean"
        )
    where = dict(modules)
    if outside := [place for place in where.values() if Path(place).is_absolute() or ".." in Path(place).parts]:
        raise InputError(f"{path} names {outside[0]!r}, which lies outside of the model's folder")
    return Modules(read_mode(folder / where["Pooling"] / "config.json"), where.get("Dense"))


def read_mode(path: Path) -> str:
    """The pooling in a 1_Pooling/config.json; raises `InputError` for modes we do not compute."""
    if not path.is_file():
        raise InputError(f"modules.json names the pooling {path}, which is missing")
    config = read_json(path)
    if "pooling_mode" in config:  # one mode or several by name, as later versions write
        named = config["pooling_mode"]
        modes = [str(m) for m in (named if isinstance(named, list) else [named])]
    else:
        modes = [key.removeprefix(_FLAG) for key, on in config.items() if key.startswith(_FLAG) and on]
    if len(modes) != 1 or modes[0] not in _NAMES:
        raise InputError(
            f"{path}: the pooling {' + '.join(modes) or '(none)'} is not supported; "
            "choose one yourself: --pooling cls, mean or last"
        )
    return _NAMES[modes[0]]


def mode_config(pooling: str, width: int) -> dict[str, Any]:
    """The content of 1_Pooling/config.json for `cls`, `mean` or `last`."""
    flags = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
    on = {_FLAG + flag: _NAMES.get(flag) == pooling for flag in flags}
    return {"word_embedding_dimension": width, **on, "include_prompt": True}


def of_encoder(paths: Iterable[str]) -> str:
    """What an encoder's class computes: "pooler" where the file holds one, among the canonical `paths`, else "cls"."""
    return "pooler" if any(path.startswith("pooler/") for path in paths) else "cls"


def choose(
    choice: str,
    modules: Modules | None,
    paths: Iterable[str],
    of_class: Callable[[Iterable[str]], str] = of_encoder,
) -> str:
    """The pooling in effect: `choice`, and for "auto" what the checkpoint says.

    That is its modules.json; else what its class computes, which `of_class` tells from the canonical `paths` in the
    file. Raises `InputError` for other words.
    """
    if choice not in CHOICES:
        raise InputError(f"unknown pooling {choice!r}{did_you_mean(choice, CHOICES)}")
    if choice != "auto":
        return choice
    if modules is not None:
        return modules.pooling
    return of_class(paths)


def choose_for_images(choice: str, family: ModuleType, config: Mapping[str, Any], paths: Iterable[str]) -> str:
    """The same for a family of images: one of its `POOLINGS`.

    For "auto" it is what the checkpoint's class computes: "pooler" for one without a head whose file holds a pooler,
    else what the head is over. "classifier" is the latter. Raises `InputError` for other words.
    """
    over: str = family.CLASSIFIER[1]
    named = [str(name) for name in config.get("architectures") or ()]
    if choice == "auto":
        plain = not any("For" in name for name in named)
        return "pooler" if plain and any(path.startswith("pooler/") for path in paths) else over
    if choice == "classifier":
        return over
    if choice == "none":
        raise InputError(f"a {config['model_type']} reads images and is no language model: it has a pooling")
    if choice not in family.POOLINGS:
        known = ("auto", *family.POOLINGS)
        raise InputError(f"images are pooled by {', '.join(known)}, not {choice!r}{did_you_mean(choice, known)}")
    return choice
