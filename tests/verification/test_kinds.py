"""Models of images and of language beside transformers, stage by stage, and beside what was kept of that.

Of each kind transformers is asked once, about a class that the seed draws; the whole table is marked `full`.
"""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tl_jax as tl
from tests.images import write_vit
from tests.models import resnets
from tests.models.test_decoders import reference_model
from tests.pretrained.test_meta_files import PARAMS, RAW, meta_folder
from tests.tiny import write_bert
from tests.tiny_language import write_llama
from tests.verification.folders import IMAGES, LANGUAGE, write
from tl_jax.errors import InputError
from tl_jax.pretrained import convert, load, save, weights
from tl_jax.pretrained.safetensors_files import SINGLE
from tl_jax.pretrained.safetensors_files import write as write_tensors
from tl_jax.rules import map_paths, paths
from tl_jax.verification import certificate, checking, reference
from tl_jax.verification.kinds import kind_of
from tl_jax.verification.reference import Reference
from tl_jax.verification.verdict import Verification, difference

KINDS = {"images": IMAGES, "language": LANGUAGE}
# Kernels that every output depends on, whatever is masked, windowed or cut off below zero.
TELLING = ("patch/kernel", "value/kernel", "out/kernel", "conv/kernel", "conv_1/kernel", "conv_2/kernel")


@pytest.fixture(scope="module", params=KINDS)
def certified(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Verification]:
    """A folder that was verified with transformers, and what came of it."""
    seed = zlib.crc32(f"{request.param} {request.config.getoption('--hypothesis-seed')}".encode())
    rng = np.random.default_rng(seed)
    classes = KINDS[request.param]
    model_type, kind = classes[rng.integers(len(classes))]
    print(model_type, kind)
    folder = write(tmp_path_factory.mktemp("certified") / "model", model_type, kind, rng, seed)
    return folder, tl.verify(folder)


@pytest.fixture
def copied(certified: tuple[Path, Any], tmp_path: Path) -> Path:
    """A copy of it that may be spoilt."""
    return Path(shutil.copytree(certified[0], tmp_path / "model"))


def stage_of(path: str) -> str:
    return path.removeprefix("batch_stats/").partition("/")[0]


def check_passed(folder: Path, found: Verification) -> None:
    """Every stage was compared, in the chain's order, and so were the logits where there is a head."""
    assert (found.against, found.passed, found.failure) == ("reference", True, "")
    model, _ = load(folder)
    stages = found.stages[1:] if model.processor is not None else found.stages
    assert [(stage.name, stage.writes) for stage in stages] == [(s.name, s.writes[0]) for s in model.stages]
    assert all(stage.error is not None and stage.error <= stage.bound for stage in found.stages)
    assert sum(stage.error > 0 for stage in found.stages) >= 2  # two computations, not one compared with itself


# -- with transformers ---------------------------------------------------------------------------------------------


def test_every_stage_agrees_with_transformers(certified: tuple[Path, Verification]) -> None:
    check_passed(*certified)
    assert certificate.exists(certified[0])


def test_a_model_that_is_read_wrong_is_found_by_its_stage(
    certified: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, rng: np.random.Generator
) -> None:
    """transformers' outputs stand for transformers, and a reader that misreads one kernel for ours."""
    folder, _ = certified
    _, _, outputs = certificate.read(folder)
    kept = Reference(outputs, "Model", {"torch": "2", "transformers": "5"}, [])
    monkeypatch.setattr(reference, "compute", lambda *args: kept)
    model, variables = load(folder)
    wrong = str(rng.choice([path for path in paths(variables) if path.endswith(TELLING)]))
    misread = map_paths(lambda path, leaf: leaf * 1.5 if path == wrong else leaf, variables)
    monkeypatch.setattr(checking, "load", lambda *args, **kwargs: (model, misread))
    found = tl.verify(folder, out=tmp_path / "out", against="reference")
    assert not found.passed and found.first_off.name == stage_of(wrong) and found.first_off.error > 1e-4
    assert found.failure.startswith(f"{stage_of(wrong)} is the first stage that is off: what it writes, ")
    assert found.certificate is None and not list((tmp_path / "out").iterdir())


@pytest.mark.full
@pytest.mark.parametrize(("model_type", "kind"), [*IMAGES, *LANGUAGE])
def test_every_class(model_type: str, kind: str, tmp_path: Path, rng: np.random.Generator, seed: int) -> None:
    folder = write(tmp_path / "model", model_type, kind, rng, seed)
    check_passed(folder, tl.verify(folder))


@pytest.mark.full
@pytest.mark.parametrize(
    ("model_type", "given"),
    [
        ("vit", {"num_hidden_layers": 1}),  # what surrounds the only layer is called, or a list that is not
        ("deit", {"num_channels": 1}),
        ("resnet", {"hidden_sizes": [21], "depths": [1], "layer_type": "basic"}),
        ("resnet", {"layer_type": "bottleneck", "depths": [1, 2, 1], "hidden_sizes": [20, 24, 28]}),
        ("qwen3", {"num_hidden_layers": 1}),
    ],
)
def test_forms(model_type: str, given: dict[str, Any], tmp_path: Path, rng: np.random.Generator, seed: int) -> None:
    kind = "ForCausalLM" if model_type == "qwen3" else "ForImageClassification"
    folder = write(tmp_path / "model", model_type, kind, rng, seed, **given)
    check_passed(folder, tl.verify(folder))


@pytest.mark.full
@pytest.mark.parametrize(
    ("model_type", "pooling"),
    [*(("llama", p) for p in ("cls", "mean", "last")), *((m, p) for m in ("vit", "deit") for p in ("cls", "mean"))],
)
def test_every_pooling(model_type: str, pooling: str, tmp_path: Path, rng: np.random.Generator, seed: int) -> None:
    folder = write(tmp_path / "model", model_type, "Model", rng, seed)
    found = tl.verify(folder, pooling=pooling)
    assert found.passed and found.stages[-1].writes == "pooled", found.failure
    assert all(stage.error is not None for stage in found.stages)


@pytest.mark.full
@pytest.mark.parametrize("make", [write_vit, write_llama])
def test_folders_of_ours(make: Callable[[Path], Path], tmp_path: Path) -> None:
    """With a processor or a tokenizer, which is compared first."""
    folder = make(tmp_path / "model")
    found = tl.verify(folder)
    check_passed(folder, found)
    assert (found.stages[0].name, found.stages[0].error) == (kind_of(load(folder)[0]).PROCESSOR, 0.0)


@pytest.mark.full
@pytest.mark.parametrize(("model_type", "kind"), [("llama", "ForCausalLM"), ("vit", "Model"), ("resnet", "Model")])
def test_float64_is_not_narrowed(
    model_type: str, kind: str, tmp_path: Path, rng: np.random.Generator, seed: int
) -> None:
    """Where transformers asks for float32 whatever it is given, as in the norms of a Llama."""
    model, variables = load(write(tmp_path / "model", model_type, kind, rng, seed))
    rows = kind_of(model).batch(model)
    single, exact = (reference.compute(model, variables, rows, dtype).outputs for dtype in ("float32", "float64"))
    assert single.keys() == exact.keys() == set(model.names)
    for stage, output in exact.items():
        assert output.dtype == np.float64 and difference(single[stage], output) < 1e-4
    if model_type == "llama":
        normed = exact["norm"] / variables["params"]["norm"]["scale"]
        assert difference(normed, normed.astype(np.float32)) > 1e-9


# -- with what was kept --------------------------------------------------------------------------------------------


def test_what_was_kept_is_found_again(copied: Path) -> None:
    found = tl.verify(copied, against="golden")
    assert found.passed and found.against == "golden" and not found.notes and found.certificate is None
    assert all(stage.error is not None for stage in found.stages)


def test_one_changed_number_is_found_by_its_stage_and_its_name(copied: Path, rng: np.random.Generator) -> None:
    """Statistics and tokens that nobody asks for too, which no output need show."""
    model, variables = load(copied)
    path = str(rng.choice([path for path in paths(variables) if path in model.info.names]))
    tensors = dict(weights.read_file(copied / SINGLE))
    tensors[model.info.names[path]].reshape(-1)[-1] += 1
    write_tensors(copied / SINGLE, tensors)
    found = tl.verify(copied, against="golden")
    assert not found.passed and found.first_off.name == stage_of(path)
    assert found.first_off.faults == (f"{path} has changed since the certificate",)
    assert found.notes == (f"other files than at the certificate: {SINGLE} changed",)


def test_a_processor_that_changed_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_vit(tmp_path / "model")
    _certify(folder, monkeypatch)
    assert tl.verify(folder, against="golden").stages[0].error == 0.0
    file = folder / "preprocessor_config.json"
    file.write_text(file.read_text().replace('"resample": 2', '"resample": 0'))
    found = tl.verify(folder, against="golden")
    assert found.first_off.name == "processor" and all(stage.passed for stage in found.stages[1:])
    assert found.failure.startswith("processor is the first stage that is off: what it writes, image, differs by ")


def _certify(folder: Path, monkeypatch: pytest.MonkeyPatch, out: Path | None = None) -> None:
    """A certificate, for which our own outputs stand for transformers'."""

    def compute(model: Any, variables: Any, batch: Any, dtype: str) -> Reference:
        outputs = checking._outputs(model, variables, batch)
        return Reference(outputs, "Model", {"torch": "2", "transformers": "5"}, [])

    with monkeypatch.context() as patched:
        patched.setattr(reference, "compute", compute)
        assert tl.verify(folder, out=out, against="reference").certificate is not None


# -- what transformers does not read -------------------------------------------------------------------------------


def _file(place: Path, raw: dict[str, Any], seed: int) -> Path:
    """A net of torchvision's names, or a CIFAR ResNet, as a file alone."""
    import torch

    path = place / "net.pth"
    torch.save(resnets.of_torch(raw, seed).state_dict(), path)
    return path


def _meta(place: Path, seed: int) -> Path:
    reference_model("llama", RAW | {"tie_word_embeddings": False}, seed).save_pretrained(place / "hf")
    return meta_folder(place / "meta", place / "hf", PARAMS)


PLAIN = {"hidden_act": "relu", "downsample_in_first_stage": False, "downsample_in_bottleneck": False}


@pytest.mark.parametrize("form", ["torchvision", "meta"])
def test_what_can_be_converted_is_held_against_the_certificate_of_that(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator, seed: int
) -> None:
    if form == "meta":
        path, file = _meta(tmp_path, seed), tmp_path / "meta" / "weights.safetensors"
        why = "transformers does not read Meta's files, but the folder that tl-jax convert makes of them"
    else:
        path = file = _file(tmp_path, resnets.draw(rng, **PLAIN, layer_type="basic"), seed)
        why = "transformers reads no file alone, but the folder that tl-jax convert makes of net.pth"
    out = tmp_path / "certificate"
    found = tl.verify(path, out=out)
    assert (found.against, found.passed) == ("structure", True) and all(stage.error is None for stage in found.stages)
    assert found.said.endswith(f"; outputs are not compared: {why}, and {out} holds no certificate")
    with pytest.raises(InputError, match=f"there is no reference for it here: {why}"):
        tl.verify(path, against="reference")

    _certify(convert(path, tmp_path / "converted"), monkeypatch, out)
    found = tl.verify(path, out=out)
    assert (found.against, found.passed, found.failure) == ("golden", True, "")
    assert all(stage.error is not None for stage in found.stages)
    model, _ = load(path)
    wrong = "layers_1/mlp/up/kernel" if form == "meta" else "batch_stats/blocks_1/norm_1/mean"
    if form == "meta":
        tensors = dict(weights.read_file(file))
        tensors["layers.1.feed_forward.w3.weight"][0, 0] += 1
        write_tensors(file, tensors)
    else:
        import torch

        tensors = torch.load(file)
        name = model.info.names[wrong]
        tensors[name][0] += 1
        torch.save(tensors, file)
    found = tl.verify(path, out=out)
    assert found.first_off.name == stage_of(wrong)
    assert found.first_off.faults == (f"{wrong} has changed since the certificate",)


def test_what_transformers_has_no_class_for_is_checked_by_structure(
    tmp_path: Path, rng: np.random.Generator, seed: int
) -> None:
    file = _file(tmp_path, resnets.draw_cifar(rng), seed)
    folder = save(tmp_path / "folder", *load(file))
    why = "outputs are not compared: transformers has no class that computes a cifar_resnet, and"
    for path in (file, folder):
        found = tl.verify(path)
        assert (found.against, found.passed) == ("structure", True) and why in found.said
    tensors = dict(weights.read_file(folder / SINGLE))
    tensors["layer1.0.bn1.running_var"][0] = np.nan
    write_tensors(folder / SINGLE, tensors)
    off = tl.verify(folder).first_off
    assert off is not None and off.name == "blocks_0"
    assert off.faults == ("batch_stats/blocks_0/norm_1/var holds 1 numbers that are NaN or infinite",)


def test_models_of_something_else(tmp_path: Path) -> None:
    model, _ = load(write_bert(tmp_path / "model"))
    says = "models that start from audio cannot be verified, but those that start from tokens or image"
    with pytest.raises(InputError, match=says):
        kind_of(replace(model, inputs=("audio",)))
