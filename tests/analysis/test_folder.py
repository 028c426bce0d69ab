from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tl_jax.analysis.cells import Cell, Scored
from tl_jax.analysis.folder import ComparisonFolder, _file_name
from tl_jax.analysis.results import Result
from tl_jax.errors import InputError

CELL = Cell("lora:rank=8,targets=query|value", 8, 1)
SCORED = Scored(Result(CELL.method, 8, 1, 0.75, 24, 1.5, 120, 1e-3), (0.5, -1.25))
DEFINITION = {
    "machine": {"cores": 2},
    "data": {"train": "ab"},
    "model": "cd",
    "task": {"loss": None},
    "settings": {"epochs": 3, "batch_size": 32, "warmup": None},
    "recipes": {"full": {"rate": 1e-3}},
}


def begun(path: Path, **changes: Any) -> ComparisonFolder:
    folder = ComparisonFolder(path)
    folder.begin({**DEFINITION, **changes}, resume=False, say=never)
    return folder


def never(text: str) -> None:
    raise AssertionError(text)


def test_a_cell_comes_back_as_it_was(tmp_path: Path) -> None:
    folder = begun(tmp_path / "c")
    assert folder.load(CELL, never) is None
    folder.save(CELL, SCORED)
    assert ComparisonFolder(tmp_path / "c").load(CELL, never) == SCORED
    for other in (
        Cell(CELL.method, None, 1),
        Cell(CELL.method, 8, 2),
        Cell(CELL.method, 8, 1, 1e-3),
        Cell("full", 8, 1),
    ):
        assert folder.load(other, never) is None
    bare = Scored(SCORED.result, None)
    folder.save(Cell("full", None, 0, 2e-4), bare)
    assert folder.load(Cell("full", None, 0, 2e-4), never) == bare


@given(st.sets(st.sampled_from("lora probe full".split()) | st.text("=,|()[]{}/\\*-%:a1 .", min_size=1), min_size=2))
def test_different_methods_have_different_files(parameters: set[str]) -> None:
    names = {_file_name(f"lora:{text}") for text in parameters}
    assert len(names) == len(parameters)
    assert not any(mark in name for name in names for mark in '/\\:|*"<>?')


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"result": {"method": 3}, "validation": null}', "\udc80"])
def test_a_damaged_cell_is_run_again(content: str, tmp_path: Path) -> None:
    folder = begun(tmp_path / "c")
    folder.save(CELL, SCORED)
    (path,) = folder.cells.iterdir()
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    said: list[str] = []
    assert folder.load(CELL, said.append) is None
    assert len(said) == 1 and f"the cell {path} cannot be read and is run again" in said[0]


def test_a_folder_that_is_there_is_not_touched(tmp_path: Path) -> None:
    folder = begun(tmp_path / "c")
    folder.check_free(resume=True, overwrite=False)
    folder.check_free(resume=False, overwrite=True)
    with pytest.raises(
        InputError, match="holds a comparison already: --resume goes on with it, --overwrite replaces it"
    ):
        folder.check_free(resume=False, overwrite=False)
    with pytest.raises(InputError, match="exclude each other"):
        folder.check_free(resume=True, overwrite=True)
    other = tmp_path / "other"
    other.mkdir()
    ComparisonFolder(other).check_free(resume=False, overwrite=False)
    (other / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="holds something that is not a comparison"):
        ComparisonFolder(other).check_free(resume=False, overwrite=True)
    with pytest.raises(InputError, match=r"thesis\.txt is a file; a comparison needs a folder"):
        ComparisonFolder(other / "thesis.txt").check_free(resume=False, overwrite=False)


def test_to_go_on_data_model_and_settings_must_be_the_same(tmp_path: Path) -> None:
    folder = begun(tmp_path / "c")
    folder.save(CELL, SCORED)
    more = {**DEFINITION, "recipes": {"probe": {"rate": 1.0}}}
    folder.begin(more, resume=True, say=never)
    assert folder.load(CELL, never) == SCORED
    said: list[str] = []
    folder.begin({**DEFINITION, "machine": {"cores": 4}}, resume=True, say=said.append)
    assert said == ["note: this is another kind of machine (cores was 2, is 4), so cells may differ by rounding"]
    changes: list[tuple[dict[str, Any], str]] = [
        ({"data": {"train": "xy"}}, "the data changed since it began"),
        ({"data": {"train": "ab", "test": "x"}}, "it began with other evaluation data: --eval-data decides what is"),
        ({"model": "xy"}, "the model changed since it began"),
        ({"task": {"loss": "focal"}}, "the task changed since it began"),
        ({"recipes": {"full": {"rate": 2e-3}}}, "what full does by itself changed since it began"),
        ({"recipes": {"probe": {"rate": 2.0}}}, "what probe does by itself changed since it began"),
        ({"settings": {"epochs": 3, "batch_size": 16}}, "--batch-size is 16, the comparison has 32"),
        ({"settings": {"epochs": 3, "warmup": 0.1}}, "--warmup is 0.1, the comparison has not given"),
    ]
    for change, message in changes:
        with pytest.raises(InputError, match=r"cannot resume .* another comparison") as said:
            folder.begin({**DEFINITION, **change}, resume=True, say=never)
        assert message in str(said.value)
    folder.begin(DEFINITION, resume=False, say=never)  # --overwrite
    assert folder.load(CELL, never) is None


@pytest.mark.parametrize("torn", ["empty", "partial", "no cells", "no definition", "no definition but a cell"])
def test_what_a_kill_leaves_of_a_folder_is_no_obstacle(torn: str, tmp_path: Path) -> None:
    """The folder as it is between two writes of `begin`, whether it makes or replaces a comparison."""
    folder = begun(tmp_path / "c")
    folder.save(CELL, SCORED)
    if torn != "no definition but a cell":
        for path in folder.cells.iterdir():
            path.unlink()
    if torn in ("empty", "partial", "no cells"):
        folder.cells.rmdir()
    if torn != "no cells":
        folder.definition_file.unlink()
    if torn == "partial":
        (folder.path / ".comparison.json.partial").write_text("{")
    for resume in (True, False):
        if torn != "no cells":
            folder.check_free(resume=resume, overwrite=False)
    folder.begin(DEFINITION, resume=True, say=never)
    folder.save(CELL, SCORED)
    assert folder.load(CELL, never) == SCORED
