"""On a mesh a run computes what it computes on one device: laws 4, 8, 10 and 11 on eight devices, and the cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import tl_jax as tl
from tests import tiny as files
from tests.parallel.eight import STEPS, on_eight, stopping_after, written
from tl_jax.cli.main import main

DATA, TENSOR = "data=4,fsdp=2", "fsdp=4,tensor=2"  # sizes that tell the axes apart
LORA = "lora:rank=4"
NO_CACHE = {"JAX_ENABLE_COMPILATION_CACHE": "false"}

# Parameters of the tiny BERT, cut to one layer: D=32, 47 tokens, 40 positions, 2 types, 48 wide, 3 labels.
TABLES = (47 + 40 + 2) * 32
KERNELS = 4 * 32 * 32 + 2 * 32 * 48
HEAD = 32 * 3
COLUMN_BIASES = 3 * 32 + 48  # of query, key, value, up
SMALL = 2 * 32 + 2 * 32 + 4 * 32 + 3  # norms, the other biases
# What one device stores of them, in float32. A half each of what fsdp=2 cuts; on the other mesh a quarter of tables and
# head, and of kernels an eighth, of the biases that go with columns a half.
MODEL = {
    DATA: 4 * ((TABLES + KERNELS + HEAD) // 2 + COLUMN_BIASES + SMALL),
    TENSOR: 4 * ((TABLES + HEAD) // 4 + KERNELS // 8 + COLUMN_BIASES // 2 + SMALL),
}
# LoRA has `a` [32, 4] and `b` [4, 32] at query and value: a follows the kernel's rows, b its columns.
TRAINED = {
    DATA: 4 * (2 * 32 * 4 // 2 + 2 * 4 * 32 + HEAD // 2 + 3),
    TENSOR: 4 * (2 * 32 * 4 // 4 + 2 * 4 * 32 // 2 + HEAD // 4 + 3),
}
HEADS = {DATA: 4 * (HEAD // 2 + 3), TENSOR: 4 * (HEAD // 4 + 3)}

# Arrays exchanged in a step of `full` on data=4,fsdp=2: groups of two are fsdp, of four data, of eight both. Of the 23
# leaves 10 are cut: 3 tables, 6 kernels of the layer, the head's.
#   all-gather 2    10  each of these, once for forward and backward
#   all-reduce 2     7  gradients of the cut kernels, of which each device then keeps its part: on CPU nothing makes a
#                       reduce-scatter of the two
#                 + 20  the sum of squares of each cut gradient, for the norm that is logged and for the clip
#   all-reduce 4     7  those parts, over data
#   all-reduce 8    13  gradients of the leaves that are whole
#                  + 3  of the tables, whose scattered rows are summed over all before they are cut
#                  + 2  loss and weight
COLLECTIVES = {"all-gather 2": 10, "all-reduce 2": 7 + 20, "all-reduce 4": 7, "all-reduce 8": 13 + 3 + 2}


def close(losses: Any, expected: Any) -> None:
    assert len(losses) == len(expected) == STEPS
    assert losses == pytest.approx(expected, rel=1e-6, abs=0)


@pytest.mark.parametrize("mesh", [DATA, pytest.param(TENSOR, marks=pytest.mark.full)])
def test_full_on_a_mesh(mesh: str, tmp_path: Path) -> None:
    found = on_eight("steps", tmp_path, "full", 1, mesh, **NO_CACHE)
    check(found, mesh)
    assert found[mesh]["stored"] == {"trainable": MODEL[mesh], "frozen": 0, "opt_state": 2 * MODEL[mesh]}
    if mesh == DATA:
        assert found[mesh]["collectives"] == COLLECTIVES
    else:
        # Split by columns, then by rows: a sum of activations after `out` and after `down`, and in the backward pass
        # one before each of query, key, value and up; groups of two are tensor.
        assert found[mesh]["activations"] == {"all-reduce 2": 2 + 4}


@pytest.mark.parametrize("mesh", [TENSOR, pytest.param(DATA, marks=pytest.mark.full)])
def test_lora_on_a_mesh(mesh: str, tmp_path: Path) -> None:
    """In two micro-batches: the rows are the second axis then."""
    found = on_eight("steps", tmp_path, LORA, 2, mesh, **NO_CACHE)
    check(found, mesh)
    trained = TRAINED[mesh]
    frozen = MODEL[mesh] - HEADS[mesh]
    assert found[mesh]["stored"] == {"trainable": trained, "frozen": frozen, "opt_state": 2 * trained}
    if mesh == TENSOR:
        # As above, but backward only before `up`: nothing trains below the adapters.
        assert found[mesh]["activations"] == {"all-reduce 2": 2 + 1}


def check(found: Any, mesh: str) -> None:
    """What holds of every method: the losses of one device, law 4, law 11, a state that stays where it lies."""
    print(mesh, found[mesh])
    close(found[mesh]["losses"], found["None"]["losses"])
    assert found[mesh]["frozen_kept"]
    assert found[mesh]["compiled"] == 1
    assert found[mesh]["donated"]
    assert found[mesh]["stored_after"] == found[mesh]["stored"]


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [line["loss"] for line in lines if line["event"] == "step"]


def test_a_run_goes_on_on_another_mesh(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = written(tmp_path)
    settings = {"epochs": None, "steps": STEPS}
    # Here there is one device.
    single = files.tune(tiny, tmp_path / "single", LORA, **settings)
    with stopping_after(8), pytest.raises(tl.Interrupted):
        files.tune(tiny, tmp_path / "up", LORA, **settings)
    found = on_eight("runs", tmp_path, LORA, DATA, "data=8", settings)
    with pytest.raises(tl.InputError, match=r"--mesh data=4,fsdp=2 needs 8 devices, and 1 device is there.* is data=1"):
        files.tune(tiny, tmp_path / "down", LORA, mesh=DATA, resume=True, **settings)
    command = ["finetune", "--resume", "--out", str(tmp_path / "down"), "--mesh", "data=1"]
    capsys.readouterr()
    assert main(command) == 0
    said = capsys.readouterr().err
    assert "another kind of machine" in said and f"mesh was {DATA}, is None" in said and "resuming after step 8" in said

    expected = losses(single.folder)
    for name in ("whole", "same", "other", "up", "down"):
        close(losses(tmp_path / name), expected)
    assert files.result(tmp_path / "same") == files.result(tmp_path / "whole")  # law 8
    manifest = json.loads((tmp_path / "whole" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["machine"]["mesh"] == DATA

    # And a run of a mesh is asked wherever there is a device: each example once (law 10), the same answers.
    assert sorted(found["seen"]) == list(range(60))
    run = tl.open_run(tmp_path / "whole")
    metrics = run.evaluate(tiny.test)
    assert metrics.pop("loss") == pytest.approx(found["evaluated"].pop("loss"), rel=1e-5)
    assert metrics == found["evaluated"]
    answers = [row["probabilities"] for row in run.predict(["where is my parcel", "refund"])]
    for answer, there in zip(answers, found["predicted"], strict=True):
        assert answer == pytest.approx(there, rel=1e-5)


def test_meshes_that_cannot_be(tmp_path: Path) -> None:
    """Through the command line, where there are eight devices: the message, exit code 2, nothing written."""
    written(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    wrong = {
        "data=3": "--mesh data=3 needs 3 devices, and 8 devices are there: 3 does not divide 8; "
        "the nearest that fits is data=4 or data=2",
        "data=8;--batch-size 12": "--mesh data=8 splits a batch into 8 parts, which does not divide its 12 rows; "
        "the nearest that fits is data=4 or data=2; the nearest batch size is 8 or 16",
        "data=2,fdsp=2": "--mesh 'data=2,fdsp=2' has the unknown axis 'fdsp'; did you mean 'fsdp'?",
        "data=2,data=4": "--mesh 'data=2,data=4' gives the axis 'data' twice",
        "8": "--mesh '8' is not a mesh: write axis=devices, as in data=4,fsdp=2, or auto",
    }
    for (code, said), message in zip(on_eight("refused", tmp_path, *wrong), wrong.values(), strict=True):
        assert code == 2 and said.partition("error: ")[2] == message + "\n", said
    assert sorted(tmp_path.rglob("*")) == before


def test_rules_of_ones_own(tmp_path: Path) -> None:
    """A probe computes features on the mesh; its rules are in the manifest, and refused before anything is written."""
    tiny = written(tmp_path)
    single = files.tune(tiny, tmp_path / "single", "probe").metrics
    found = on_eight("own_rules", tmp_path)
    assert found["metrics"].pop("loss") == pytest.approx(single.pop("loss"), rel=1e-5)
    assert found["metrics"] == single
    machine = json.loads((tmp_path / "own" / "manifest.json").read_text(encoding="utf-8"))["machine"]
    assert machine["mesh"] == "fsdp=4"
    assert [pattern for pattern, _ in machine["shardings"]] == [".*/embedding", "layers_0/.*/kernel"]
    assert "rule 'layers_1/.*' decides nothing: absent" in found["said"] and not (tmp_path / "wrong").exists()
    with pytest.raises(tl.InputError, match="give mesh= too"):
        files.tune(tiny, tmp_path / "wrong", "probe", shardings=[])


@pytest.mark.full
def test_what_thaws_and_what_is_averaged(tmp_path: Path) -> None:
    """Each phase compiles once: what thaws is put where it lies, its fresh moments too, and so is the average."""
    tiny, method = written(tmp_path), "gradual_unfreezing"
    settings = {**files.settings(method, epochs=None, steps=STEPS, ema=0.9), "lr": 1e-3}
    del settings["method"]
    single = files.tune(tiny, tmp_path / "single", method, **settings)
    compiled = on_eight("one_run", tmp_path, "mesh", method, {**settings, "mesh": DATA}, **NO_CACHE)
    close(losses(tmp_path / "mesh"), losses(single.folder))
    training = json.loads((tmp_path / "mesh" / "summary.json").read_text(encoding="utf-8"))["shapes_compiled"]
    assert training == 3  # head, layer, embeddings
    assert compiled.count("jit(step)") == training + 1  # and evaluation


@pytest.mark.full
def test_a_comparison_on_a_mesh(tmp_path: Path) -> None:
    tiny = written(tmp_path)
    settings = {"methods": f"probe,{LORA}", "shots": "8", "seeds": 1, "steps": STEPS, "batch_size": 16}
    single = tl.compare(tiny.mean, tiny.train, eval_data=tiny.test, out=tmp_path / "single", quiet=True, **settings)
    found = on_eight("compared", tmp_path, {**settings, "mesh": DATA})
    assert found["meshes"] == [DATA, DATA]
    assert found["scores"] == [cell.score for cell in single.results.cells]
