"""`verify` finds nothing where nothing is wrong, and names the stage where something is.

transformers is asked once, about a family that the seed draws; the whole table is marked `full`.
"""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import tl_jax as tl
from tests.tiny import CONFIG, FAMILIES, write_bert
from tl_jax.errors import InputError
from tl_jax.models.heads import classifier
from tl_jax.pretrained import load, save, weights
from tl_jax.pretrained.safetensors_files import SINGLE, write
from tl_jax.rules import map_paths, paths
from tl_jax.verification import certificate, checking, reference
from tl_jax.verification.reference import Reference
from tl_jax.verification.verdict import Checked, Verification

LABELS = ("no", "yes", "perhaps")


def classifier_folder(folder: Path, kind: str, pooling: str, seed: int) -> Path:
    """A tiny classifier: over the pooler a class of transformers, else a folder of sentence-transformers."""
    base = write_bert(folder.with_name(f"{folder.name}.base"), kind=kind, pooling=pooling, seed=seed)
    model, variables = load(base, pooling=pooling)
    model = model.attach(classifier(len(LABELS), CONFIG))
    model = replace(model, info=replace(model.info, labels=LABELS))
    head = model.init(jax.random.key(seed), only=["head"])["params"]["head"]
    rng = np.random.default_rng(seed)  # biases of zero and norms of one would hide a mix-up
    params = {**variables["params"], "head": head}
    noisy = map_paths(lambda _, leaf: leaf + rng.normal(0, 0.1, leaf.shape).astype(leaf.dtype), params)
    return save(folder, model, {"params": noisy})


@pytest.fixture(scope="module")
def certified(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Verification]:
    """A folder that was verified with transformers, and what came of it."""
    seed = zlib.crc32(str(request.config.getoption("--hypothesis-seed")).encode())
    rng = np.random.default_rng(seed)
    kind, pooling = str(rng.choice(list(FAMILIES))), str(rng.choice(["pooler", "mean"]))
    if kind == "distilbert":
        pooling = "mean"  # it has no pooler to start from
    print(kind, pooling)
    folder = classifier_folder(tmp_path_factory.mktemp("certified") / "model", kind, pooling, seed % 100)
    return folder, tl.verify(folder)


@pytest.fixture
def copied(certified: tuple[Path, Any], tmp_path: Path) -> Path:
    """A copy of it that may be spoilt."""
    return Path(shutil.copytree(certified[0], tmp_path / "model"))


def stage_of(path: str) -> str:
    return path.partition("/")[0]


def tamper(folder: Path, path: str, **change: Any) -> None:
    """Change one number of the parameter at `path` in the folder's files."""
    model, _ = load(folder)
    file, name = folder / SINGLE, model.info.names.get(path)
    if name is None:  # the head, in a file of its own
        file, name = folder / "2_Dense" / SINGLE, "linear.weight" if path.endswith("kernel") else "linear.bias"
    tensors = dict(weights.read_file(file))
    tensors[name].reshape(-1)[-1] = change.get("to", tensors[name].reshape(-1)[-1] + 1)
    write(file, tensors)


# -- with transformers ---------------------------------------------------------------------------------------------


def test_every_stage_agrees_with_transformers(certified: tuple[Path, Verification]) -> None:
    folder, found = certified
    assert (found.against, found.passed, found.failure) == ("reference", True, "")
    model, _ = load(folder)
    assert found.stages[0] == Checked("tokenizer", "tokens", 0.0, 0.0)
    assert [(stage.name, stage.writes) for stage in found.stages[1:]] == [(s.name, s.writes[0]) for s in model.stages]
    assert all(stage.error is not None and stage.error <= stage.bound for stage in found.stages)
    assert sum(stage.error > 0 for stage in found.stages) > 2  # two computations, not one compared with itself
    assert "of transformers (torch " in found.said and f"certificate: {folder / certificate.FILE}" in str(found)


def test_the_certificate_says_of_what_it_is(certified: tuple[Path, Verification]) -> None:
    folder, found = certified
    content = json.loads((folder / certificate.FILE).read_text())
    model, variables = load(folder)
    assert content["reference"].endswith("Model" if model.info.pooling == "mean" else "ForSequenceClassification")
    assert set(content["versions"]) == {"tl_jax", "python", "jax", "numpy", "torch", "transformers"}
    assert content["stages"] == {s.name: {"writes": s.writes, "error": s.error, "bound": s.bound} for s in found.stages}
    assert content["files"] == tl.pretrained.fingerprint(folder)
    assert content["tensors"].keys() == paths(variables).keys()
    assert len(set(content["tensors"].values())) == len(content["tensors"])
    _, batch, outputs = certificate.read(folder)
    assert outputs.keys() == set(model.names) and batch["tokens"].shape == batch["mask"].shape


def test_a_model_that_is_read_wrong_is_found_by_its_stage(
    certified: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, rng: np.random.Generator
) -> None:
    """transformers' outputs stand for transformers, and a reader that misreads one number for ours."""
    folder, _ = certified
    _, _, outputs = certificate.read(folder)
    asked = []

    def compute(model: Any, variables: Any, batch: Any, dtype: str) -> Reference:
        asked.append(dtype)
        return Reference(outputs, "Model", {"torch": "2", "transformers": "5"}, [])

    monkeypatch.setattr(reference, "compute", compute)
    model, variables = load(folder)
    wrong = str(rng.choice([path for path in paths(variables) if path.endswith("kernel")]))

    def misread(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
        leaf = paths(variables)[wrong].copy()
        leaf[0, 0] += 1
        return model, map_paths(lambda path, old: leaf if path == wrong else old, variables)

    monkeypatch.setattr(checking, "load", misread)
    found = tl.verify(folder, out=tmp_path / "out", against="reference")
    assert asked == ["float32", "float64"]
    assert not found.passed and found.first_off.name == stage_of(wrong) and found.first_off.error > 1e-4
    assert found.failure.startswith(f"{stage_of(wrong)} is the first stage that is off: what it writes, ")
    assert found.certificate is None and not list((tmp_path / "out").iterdir())


def test_where_transformers_is_less_exact_than_that_its_own_rounding_is_the_bound(
    certified: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder, _ = certified
    _, _, outputs = certificate.read(folder)

    def compute(model: Any, variables: Any, batch: Any, dtype: str) -> Reference:
        off = {"float32": 3e-5, "float64": 0.0}[dtype]
        spoilt = {**outputs, "layers_1": outputs["layers_1"] * (1 + off)}
        return Reference(spoilt, "Model", {"torch": "2", "transformers": "5"}, "no")

    monkeypatch.setattr(reference, "compute", compute)
    found = tl.verify(folder, out=tmp_path, against="reference")
    (checked,) = (stage for stage in found.stages if stage.name == "layers_1")
    assert found.notes == ("the tokenizer is not compared: transformers does not read it (no)",)
    assert found.passed and 1e-5 < checked.error < checked.bound == pytest.approx(6e-5, rel=1e-2)


def test_a_reference_without_our_stages_certifies_nothing(
    copied: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    nothing = Reference({}, "Model", {"torch": "2", "transformers": "5"}, [])
    monkeypatch.setattr(reference, "compute", lambda *args: nothing)
    with pytest.raises(
        InputError, match=r"none of the stages embeddings, layers_0, .* is found in Model of transformers"
    ):
        tl.verify(copied, out=tmp_path, against="reference")


def test_a_reference_that_fails_says_why(copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "program.py"
    program.write_text("import sys\nassert len(sys.argv) == 2\nraise ValueError('no such class')\n")
    monkeypatch.setattr(reference, "_PROGRAM", program)
    with pytest.raises(InputError, match=r"transformers does not compute .*model: ValueError: no such class"):
        tl.verify(copied, against="reference")


@pytest.mark.full
@pytest.mark.parametrize("pooling", ["pooler", "mean", "cls", "last"])
@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("head", [False, True])
def test_every_family_pooling_and_head(tmp_path: Path, kind: str, pooling: str, head: bool) -> None:
    if kind == "distilbert" and pooling == "pooler":
        pytest.skip("DistilBERT has no pooler of its own")
    folder = tmp_path / "model"
    if head:
        classifier_folder(folder, kind, pooling, seed=3)
    else:
        write_bert(folder, kind=kind, pooling=pooling, seed=3)
    found = tl.verify(folder)
    assert found.passed, found.failure
    assert all(stage.error is not None for stage in found.stages)


# -- with what was kept --------------------------------------------------------------------------------------------


def test_what_was_kept_is_found_again(copied: Path) -> None:
    found = tl.verify(copied, against="golden")
    assert found.passed and found.against == "golden" and not found.notes and found.certificate is None
    assert all(stage.error is not None for stage in found.stages)


def test_a_tampered_weight_is_found_by_its_stage_and_its_name(copied: Path, rng: np.random.Generator) -> None:
    _, variables = load(copied)
    path = str(rng.choice([p for p in paths(variables) if p.endswith(("kernel", "scale"))]))
    tamper(copied, path)
    found = tl.verify(copied, against="golden")
    off = found.first_off
    assert not found.passed and off.name == stage_of(path)
    assert off.faults == (f"{path} has changed since the certificate",) and off.error > off.bound
    assert f"{stage_of(path)} is the first stage that is off: {path} has changed" in found.failure
    assert f"{off.name} " in str(found) and str(found).count(" off\n") >= 1


def test_a_tokenizer_that_changed_is_found(copied: Path) -> None:
    words = (copied / "vocab.txt").read_text().splitlines()
    where, parcel = words.index("where"), words.index("parcel")
    words[where], words[parcel] = words[parcel], words[where]
    (copied / "vocab.txt").write_text("\n".join(words) + "\n")
    found = tl.verify(copied, against="golden")
    assert found.first_off.name == "tokenizer" and all(stage.passed for stage in found.stages[1:])
    assert "a text becomes [" in found.failure and "at the certificate" in found.failure
    assert found.notes == ("other files than at the certificate: vocab.txt changed",)


def test_a_certificate_of_other_weights_is_not_replaced_in_silence(copied: Path) -> None:
    _, variables = load(copied)
    assert not certificate.of_others(copied, variables)
    changed = map_paths(lambda path, leaf: leaf + 1 if path == "head/bias" else leaf, variables["params"])
    assert certificate.of_others(copied, {"params": changed})
    (copied / certificate.FILE).write_text("{}")
    assert certificate.of_others(copied, variables)
    found = tl.verify(copied)
    assert found.passed and found.notes == (f"the certificate in {copied} was of other weights, and is replaced",)
    assert not tl.verify(copied, against="golden").notes


def test_a_weight_that_no_output_shows_is_found_too(copied: Path) -> None:
    """The row of a token that none of the inputs has."""
    _, batch, _ = certificate.read(copied)
    model, variables = load(copied)
    table = paths(variables)["embeddings/token/embedding"]
    unused = next(i for i in range(len(table)) if i not in batch["tokens"])
    tensors = dict(weights.read(copied))
    tensors[model.info.names["embeddings/token/embedding"]][unused] += 1
    write(copied / SINGLE, tensors)
    found = tl.verify(copied, against="golden")
    assert found.first_off.name == "embeddings" and found.first_off.error <= found.first_off.bound
    assert found.first_off.faults == ("embeddings/token/embedding has changed since the certificate",)


def test_a_setting_that_changed_is_found_by_what_it_changes(copied: Path) -> None:
    config = json.loads((copied / "config.json").read_text())
    config["activation" if config["model_type"] == "distilbert" else "hidden_act"] = "relu"
    (copied / "config.json").write_text(json.dumps(config))
    found = tl.verify(copied, against="golden")
    assert found.first_off.name == "layers_0" and not found.first_off.faults
    assert found.notes == ("other files than at the certificate: config.json changed",)


@pytest.mark.parametrize("damage", ["outputs", "keys", "json", "pooling", "none"])
def test_certificates_that_are_none(copied: Path, damage: str) -> None:
    file, golden = copied / certificate.FILE, copied / certificate.GOLDEN
    content = json.loads(file.read_text())
    if damage == "outputs":
        golden.write_bytes(golden.read_bytes()[:-1] + bytes([golden.read_bytes()[-1] ^ 1]))
        says = r"verification\.safetensors is not what verification\.json beside it was written with"
    elif damage == "keys":
        file.write_text(json.dumps({**content, "more": 1}))
        says = r"verification\.json is not a certificate of this version"
    elif damage == "json":
        file.write_text("{")
        says = r"verification\.json is not JSON"
    elif damage == "pooling":
        file.write_text(json.dumps({**content, "pooling": "last"}))
        says = "is of --pooling last, not "
    else:
        file.unlink()
        says = r"holds no certificate \(verification\.json\)"
    with pytest.raises(InputError, match=says):
        tl.verify(copied, against="golden")


# -- without either ------------------------------------------------------------------------------------------------


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where torch and transformers are not installed."""
    monkeypatch.setattr(reference, "missing", lambda: ["torch", "transformers"])


@pytest.mark.usefixtures("alone")
def test_the_best_that_is_here_is_chosen_and_said(copied: Path) -> None:
    assert tl.verify(copied).against == "golden"
    (copied / certificate.FILE).unlink()
    found = tl.verify(copied)
    assert (found.against, found.passed) == ("structure", True)
    assert found.said.startswith("structure only: ")
    why = "outputs are not compared: it needs pip install torch transformers, and"
    assert why in found.said and found.said.endswith(f"{copied} holds no certificate")
    assert all(stage.error is None for stage in found.stages) and "not compared" in str(found)
    with pytest.raises(InputError, match="there is no reference for it here: it needs pip install torch transformers"):
        tl.verify(copied, against="reference")


@pytest.mark.parametrize("against", ["golden", "structure"])
def test_numbers_that_are_none_are_off(copied: Path, against: str) -> None:
    tamper(copied, "layers_1/mlp/up/bias", to=np.nan)
    found = tl.verify(copied, against=against)
    assert found.first_off.name == "layers_1"
    assert found.first_off.faults[0] == "layers_1/mlp/up/bias holds 1 numbers that are NaN or infinite"


def test_what_cannot_be_verified(copied: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown 'golde' to verify against; did you mean 'golden'"):
        tl.verify(copied, against="golde")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"no certificate can be put into .*file/x \(.*\): --out gives it another"):
        tl.verify(copied, out=tmp_path / "file" / "x", against="reference")
    for name in ("experiment.json", "manifest.json", "summary.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(InputError, match="is a run: tl-jax export writes its model, and that can be verified"):
        tl.verify(tmp_path)


def test_nan_is_never_close(certified: tuple[Path, Any]) -> None:
    stage = Checked("layers_0", "hidden", float("nan"))
    assert not stage.passed
    found = Verification("golden", "", (stage,))
    assert "differs by nan" in found.failure


def test_digests_are_of_dtype_shape_and_numbers(rng: np.random.Generator) -> None:
    array = rng.normal(size=(4, 6)).astype(np.float32)

    def digest(leaf: Any) -> Mapping[str, str]:
        return certificate.digests({"params": {"a": leaf}})

    assert digest(array) == digest(np.asfortranarray(array)) == digest(array.T.copy().T)
    others = [array.T, array.reshape(6, 4), array.view(np.int32), array.astype(np.float64), array + 1]
    assert len({digest(leaf)["a"] for leaf in (array, *others)}) == 6
