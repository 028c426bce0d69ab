"""The examples of docs/your_model.md, executed as they stand: each door loaded, probed, fine-tuned whole and saved."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tl_jax as tl
from tests.tiny import digests
from tl_jax.groups import FROZEN
from tl_jax.rules import paths
from tl_jax.training.interrupt import Interrupt

FILE = Path(__file__).resolve().parents[2] / "docs" / "your_model.md"


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What the examples' names hold after they ran, in a folder of their own."""
    blocks = re.findall(r"```python\n(.*?)```", FILE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 3
    folder = tmp_path_factory.mktemp("your_model")
    names: dict[str, Any] = {"__name__": "your_model"}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        exec(compile("\n".join(blocks), FILE.name, "exec", dont_inherit=True), names)
        yield names  # runs are where the examples put them


def moved(run: Any) -> set[str]:
    before, after = digests(run.plan.variables), digests(run.variables)
    return {path for path in after if before[path] != after[path]}


@pytest.mark.parametrize(
    ("given", "probe", "full"), [("variables", "probed", "run"), ("theirs", "function_probed", "function_run")]
)
def test_probing_moves_the_head_and_full_fine_tuning_everything(
    given: str, probe: str, full: str, names: dict[str, Any]
) -> None:
    """Law 4 on both doors."""
    loaded, probed, run = digests(names[given]), names[probe], names[full]
    assert moved(probed) == {"head/kernel", "head/bias"}
    assert moved(run) == loaded.keys() | {"head/kernel", "head/bias"}
    assert loaded.items() <= digests(probed.variables).items()
    assert all(run.evaluate(names["messages"])["accuracy"] > 0.9 for run in (probed, run))


def test_what_is_loaded_is_what_the_file_holds(names: dict[str, Any]) -> None:
    assert digests(names["variables"]) == digests({"params": names["params"]})
    assert digests(names["theirs"]) == digests({"params": names["weights"]})
    assert names["vectors"].shape == (1, 32)


def test_what_was_saved_reads_back_with_its_bits_paths_and_labels(names: dict[str, Any]) -> None:
    """Law 3 for somebody's own paths."""
    for model, variables, run in [("tuned", "tuned_variables", "run"), ("again", "again_variables", "function_run")]:
        assert digests(names[variables]) == digests(names[run].variables)
        assert names[model] == names[run].model and names[model].info.labels == ("billing", "delivery")
    assert {"embed/embedding", "layer_0/kernel", "norm_1/scale", "head/bias"} < paths(names["tuned_variables"]).keys()


def test_a_run_answers_and_is_opened_again_with_the_network_at_hand(names: dict[str, Any]) -> None:
    texts = ["my parcel is not here", "my invoice was wrong"]
    assert names["answer"][0]["label"] == "delivery"
    assert names["reopened"].predict(texts) == names["run"].predict(texts)
    with pytest.raises(tl.InputError, match=r"give it again, tl.open_run\(folder, model=\(model, variables\)\)"):
        tl.open_run("runs/full")
    with pytest.raises(tl.InputError, match="not the variables the run"):
        tl.open_run("runs/full", model=(names["model"], names["run"].variables))


def test_the_plan_and_the_rules(names: dict[str, Any]) -> None:
    plan = names["plan"]
    assert {path for path, label in paths(plan.labels).items() if label is not FROZEN} == {
        *(f"adapters/lora/layer_{i}/{leaf}" for i in range(2) for leaf in "ab"),
        "head/kernel",
        "head/bias",
    }
    assert paths(names["frozen"]).keys() == {"embed/embedding"}


def test_a_run_of_a_model_in_memory_resumes_to_the_same_bits(names: dict[str, Any]) -> None:
    """Law 8, with a stop in the middle in place of a kill."""
    settings = {"method": "full", "steps": 40, "lr": 1e-2, "quiet": True}
    pair = (names["model"], names["variables"])
    whole, cut, asked = names["run"], Path("runs/cut"), iter(range(100))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Interrupt, "requested", property(lambda _: next(asked) >= 17), raising=False)
        with pytest.raises(tl.Interrupted):
            tl.finetune(pair, names["messages"], out=cut, **settings)
    resumed = tl.finetune(pair, names["messages"], out=cut, resume=True, **settings)
    assert digests(resumed.variables) == digests(whole.variables)
    other = {"params": {**names["params"], "embed": {"embedding": np.zeros((1000, 32), np.float32)}}}
    with pytest.raises(tl.InputError, match="the model changed since the run began"):
        tl.finetune((names["model"], other), names["messages"], out=cut, resume=True, **settings)
