"""Llamas as Meta and llama2.c write them: their own names, keys and order of rotary features, put into Hugging Face's.

Meta rotates neighbouring features, (0, 1), (2, 3), …; everybody else's files pair j with j + D/2. The rows of the query
and key kernels are put in that order, which leaves what is computed the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tl_jax.errors import InputError
from tl_jax.pretrained import weights
from tl_jax.pretrained.json_files import read_json
from tl_jax.pretrained.malformed import shown
from tl_jax.pretrained.tensor_files import Spec, Tensors, same_bits

MODEL_TYPE = "llama"
_SETTINGS = ("params.json", "config.json")
_FORMS = ("*.safetensors", "*.pth", "*.pt")  # in order of preference
_KEYS = {"dim", "n_layers", "n_heads"}
_LAYER = r"layers\.(\d+)\."
_NAMES = (
    (r"tok_embeddings\.weight", "model.embed_tokens.weight"),
    (_LAYER + r"attention\.wq\.weight", r"model.layers.\1.self_attn.q_proj.weight"),
    (_LAYER + r"attention\.wk\.weight", r"model.layers.\1.self_attn.k_proj.weight"),
    (_LAYER + r"attention\.wv\.weight", r"model.layers.\1.self_attn.v_proj.weight"),
    (_LAYER + r"attention\.wo\.weight", r"model.layers.\1.self_attn.o_proj.weight"),
    (_LAYER + r"feed_forward\.w1\.weight", r"model.layers.\1.mlp.gate_proj.weight"),
    (_LAYER + r"feed_forward\.w3\.weight", r"model.layers.\1.mlp.up_proj.weight"),
    (_LAYER + r"feed_forward\.w2\.weight", r"model.layers.\1.mlp.down_proj.weight"),
    (_LAYER + r"attention_norm\.weight", r"model.layers.\1.input_layernorm.weight"),
    (_LAYER + r"ffn_norm\.weight", r"model.layers.\1.post_attention_layernorm.weight"),
    (r"norm\.weight", "model.norm.weight"),
    (r"output\.weight", "lm_head.weight"),
    (r"rope\.freqs", "model.rotary_emb.inv_freq"),
)
_ROTATED = re.compile(_LAYER + r"attention\.w([qk])\.weight")
_COMPILED = "_orig_mod."  # what torch.compile puts before every name
_LENGTH = 2048  # Llama 1's, and llama2.c's where it says none
_SENTENCE_PIECES = 32_000  # the vocabulary of Llama 1 and 2; those that llama2.c trains are smaller
_LLAMA_3 = 128_256


class MetaTensors(Tensors):
    """The tensors of Meta's file under Hugging Face's names; `heads` are those of queries and of keys."""

    def __init__(self, theirs: Tensors, heads: Mapping[str, int]) -> None:
        self._theirs, self._heads = theirs, heads
        super().__init__(theirs.files[:1])

    def _entries(self, path: Path) -> Iterator[tuple[str, Spec, Callable[[], np.ndarray]]]:
        for name, spec in self._theirs.specs.items():
            bare = name.removeprefix(_COMPILED)
            found = ((re.fullmatch(rule, bare), ours) for rule, ours in _NAMES)
            ours = next((match.expand(ours) for match, ours in found if match), None)
            if ours is None:
                raise InputError(f"{path}: the tensor {shown(name)} is none of a Llama's under Meta's names")
            rotated = _ROTATED.fullmatch(bare)
            yield ours, spec, partial(self._read, name, self._heads[rotated[2]] if rotated else 0)

    def _read(self, name: str, heads: int) -> np.ndarray:
        array = self._theirs[name]
        return halved(array, heads) if heads else array


def halved(kernel: np.ndarray, heads: int) -> np.ndarray:
    """A kernel `[heads · D, in]` whose pairs are neighbours, with the first of all pairs first, then the second."""
    rows, inputs = kernel.shape
    return kernel.reshape(heads, rows // heads // 2, 2, inputs).swapaxes(1, 2).reshape(rows, inputs)


def read(folder: Path) -> tuple[dict[str, Any], Tensors] | None:
    """The config, as Hugging Face writes it, and the tensors of a Llama of Meta's; None for any other folder.

    Raises `InputError` for weights that are missing, several or split for several devices, and for rotary scaling,
    of which Meta's settings do not say how much.
    """
    settings = _settings(folder)
    if settings is None:
        return None
    where, raw = settings
    file = _weights(folder)
    theirs = weights.read_file(file)
    if raw.get("use_scaled_rope"):
        raise InputError(f"{where}: use_scaled_rope does not say by how much: take the model in Hugging Face's format")
    for key in _KEYS:
        if not isinstance(raw[key], int) or raw[key] < 1:
            raise InputError(f"{where}: {key} must be a positive integer, not {raw[key]!r:.99}")
    bare = {name.removeprefix(_COMPILED): spec for name, spec in theirs.specs.items()}
    for name, axes in (("tok_embeddings.weight", 2), ("layers.0.feed_forward.w1.weight", 2)):
        if name not in bare or len(bare[name].shape) != axes:
            raise InputError(f"{file} holds no {name}, as a Llama under Meta's names does")
    heads = {"q": raw["n_heads"], "k": raw.get("n_kv_heads") or raw["n_heads"]}
    for name, spec in bare.items():
        rotated = _ROTATED.fullmatch(name)
        if rotated and (len(spec.shape) != 2 or spec.shape[0] % (2 * heads[rotated[2]])):
            raise InputError(f"{file}: {name} {list(spec.shape)} is not that of {heads[rotated[2]]} heads of pairs")
    vocabulary, epsilon = bare["tok_embeddings.weight"].shape[0], raw.get("norm_eps") or 1e-5
    length, begin, end = _usual(vocabulary, epsilon)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": MODEL_TYPE,
        "vocab_size": vocabulary,
        "hidden_size": raw["dim"],
        "intermediate_size": bare["layers.0.feed_forward.w1.weight"].shape[0],
        "num_hidden_layers": raw["n_layers"],
        "num_attention_heads": heads["q"],
        "num_key_value_heads": heads["k"],
        "hidden_act": "silu",
        "max_position_embeddings": raw.get("max_seq_len") or length,
        "rms_norm_eps": epsilon,
        "rope_theta": raw.get("rope_theta") or 10_000.0,
        "tie_word_embeddings": _tied(theirs, bare),
        "bos_token_id": raw.get("bos_id", begin),
        "eos_token_id": raw.get("eos_id", end),
    }
    return config, MetaTensors(theirs, heads)


def describes(folder: Path) -> bool:
    """Whether a folder is one of Meta's, by its settings."""
    return _settings(folder) is not None


def _settings(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """Meta's settings and their file; None where a config.json says what the folder is, whatever lies beside it."""
    found = [(folder / name, read_json(folder / name)) for name in _SETTINGS if (folder / name).is_file()]
    if any("model_type" in raw for path, raw in found if path.name == "config.json"):
        return None
    return next((one for one in found if one[1].keys() >= _KEYS), None)


def _usual(vocabulary: int, epsilon: float) -> tuple[int, int | None, int | None]:
    """The longest text and the ids that begin and end one, which Meta's settings leave to the code of each Llama.

    The vocabulary tells which it is. An id that is not known is None: where it is left out, transformers takes 1 and 2.
    """
    if vocabulary == _LLAMA_3:
        return 8192, 128_000, 128_001
    if vocabulary > _SENTENCE_PIECES:
        return _LENGTH, None, None
    second = vocabulary == _SENTENCE_PIECES and epsilon == 1e-5  # Llama 1 has 1e-6
    return (4096 if second else _LENGTH), 1, 2


def _tied(theirs: Tensors, bare: Mapping[str, Spec]) -> bool:
    """Whether the head is the embedding: left out of the file or, as llama2.c keeps it, there twice."""
    if "output.weight" not in bare:
        return True
    names = {name.removeprefix(_COMPILED): name for name in theirs.specs}
    return same_bits(theirs, names["output.weight"], names["tok_embeddings.weight"])


def _weights(folder: Path) -> Path:
    for form in _FORMS:
        found = sorted(folder.glob(form))
        if len(found) > 1:
            names = ", ".join(path.name for path in found[:4])
            raise InputError(f"{folder} holds several files of weights ({names}), and one is read: join them first")
        if found:
            return found[0]
    raise InputError(f"{folder} holds no weights: one of {', '.join(_FORMS)}")
