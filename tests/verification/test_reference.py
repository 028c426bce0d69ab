"""Where a stage is looked for in the reference: the modules that hold its parameters, the outermost first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.images import write_vit
from tests.tiny import write_bert
from tests.tiny_language import write_llama
from tests.verification.test_checking import classifier_folder
from tl_jax.pretrained import load
from tl_jax.verification import reference

QUERY = {
    "bert": ("encoder.layer.1.attention.self.query.weight",),
    "roberta": ("encoder.layer.1.attention.self.query.weight",),
    "distilbert": ("transformer.layer.1.attention.q_lin.weight",),
}
HEAD = {
    "bert": [("classifier.weight",), ("classifier.bias",)],
    "roberta": [("classifier.out_proj.weight",), ("classifier.out_proj.bias",)],
}


@pytest.mark.parametrize("kind", QUERY)
def test_the_names_of_a_stage_s_parameters(kind: str, tmp_path: Path) -> None:
    found = reference.parameters(*load(write_bert(tmp_path / "model", kind=kind)))
    assert list(found) == ["embeddings", "layers_0", "layers_1"]  # a pooler without parameters has none
    assert QUERY[kind] in found["layers_1"] and len(found["layers_1"]) == 16


@pytest.mark.parametrize("kind", HEAD)
def test_those_of_a_head(kind: str, tmp_path: Path) -> None:
    found = reference.parameters(*load(classifier_folder(tmp_path / "model", kind, "pooler", 0)))
    assert sorted(found["head"]) == sorted(HEAD[kind])
    assert sum("pooler.dense.weight" in spellings for spellings in found["pooler"]) == 1


def test_names_of_every_generation(tmp_path: Path) -> None:
    found = reference.parameters(*load(write_vit(tmp_path / "model")))
    file, memory = "encoder.layer.0.attention.attention.query.weight", "layers.0.attention.q_proj.weight"
    assert (file, memory) in found["layers_0"]


def test_a_tied_head_has_no_parameters(tmp_path: Path) -> None:
    found = reference.parameters(*load(write_llama(tmp_path / "model")))
    assert found["embeddings"] == [("embed_tokens.weight",)] and "head" not in found


# -- in the process of the reference ------------------------------------------------------------------------------


def small_net() -> Any:
    """A stem, two blocks in a list and in a container, and a head inside what also holds another stage."""
    import torch
    from torch import nn

    class Stem(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Linear(2, 2)

        def forward(self, x: Any) -> Any:
            return torch.relu(self.conv(x))

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Sequential(nn.Linear(2, 2))
            self.unknown = nn.Parameter(torch.zeros(1))

        def forward(self, x: Any) -> Any:
            return x + self.layer(x)

    class Net(nn.Module):
        base_model_prefix = "net"

        def __init__(self) -> None:
            super().__init__()
            self.stem, self.blocks = Stem(), nn.ModuleList([Block()])
            self.deep = nn.Sequential(Block())
            self.top = nn.ModuleDict({"dense": nn.Linear(2, 2), "out": nn.Linear(2, 2)})

        def forward(self, x: Any) -> Any:
            return self.top["out"](self.top["dense"](self.deep(self.blocks[0](self.stem(x)))))

    return Net()


SPELLINGS = {
    "stem": [["old.weight", "net.stem.conv.weight"], ["stem.conv.bias"]],
    "blocks_0": [["blocks.0.layer.0.weight"], ["blocks.0.layer.0.bias"]],
    "blocks_1": [["deep.0.layer.0.weight"], ["deep.0.layer.0.bias"]],
    "pooler": [["top.dense.weight"]],
    "head": [["top.out.weight"], ["top.out.bias"]],
    "elsewhere": [["none.weight"]],
}


def test_modules_hold_a_stage_s_parameters_and_no_other_s() -> None:
    from tl_jax.verification.reference_process import _modules

    net = small_net()
    places = {module: name for name, module in net.named_modules()}
    found = {stage: [places[m] for m in modules] for stage, modules in _modules(net, SPELLINGS).items()}
    assert found == {
        "stem": ["stem", "stem.conv"],
        "blocks_0": ["blocks", "blocks.0", "blocks.0.layer", "blocks.0.layer.0"],
        "blocks_1": ["deep", "deep.0", "deep.0.layer", "deep.0.layer.0"],
        "pooler": ["top.dense"],
        "head": ["top.out"],
    }


def test_the_outermost_that_is_called_counts() -> None:
    from tl_jax.verification.reference_process import _modules, _next

    net = small_net()
    modules = _modules(net, SPELLINGS)
    calls = {module: [("in", place)] for place, module in net.named_modules() if place not in ("blocks", "top")}
    assert {stage: _next(modules.get(stage, []), calls)[1] for stage in SPELLINGS} == {
        "stem": "stem",
        "blocks_0": "blocks.0",
        "blocks_1": "deep",
        "pooler": "top.dense",
        "head": "top.out",
        "elsewhere": None,
    }


def test_stages_that_share_a_module_have_its_calls_in_turn() -> None:
    from tl_jax.verification.reference_process import _modules, _next

    net = small_net()
    shared = {"first": SPELLINGS["stem"], "second": SPELLINGS["stem"]}
    modules = _modules(net, shared)
    calls = {net.stem: [("a", "b"), ("b", "c")]}
    assert [_next(modules[stage], calls) for stage in shared] == [("a", "b"), ("b", "c")]


# -- where there is none ------------------------------------------------------------------------------------------


def test_what_is_installed_is_found_without_importing_it(tmp_path: Path) -> None:
    assert reference.missing() == []
    assert reference.absent(load(write_vit(tmp_path / "model"))[0]) == ""


def test_images_come_back_channels_last(rng: np.random.Generator) -> None:
    maps = rng.normal(size=(2, 3, 4, 5))
    assert np.array_equal(reference._channels_last(maps)[1, 2, 3], maps[1, :, 2, 3])
    assert reference._channels_last(maps[0]).shape == (3, 4, 5)
