"""docs/images.md, followed by somebody new: every command and every line of Python on it, in the order of the page."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import images as files
from tl_jax.cli.main import main

FILE = Path(__file__).resolve().parents[2] / "docs" / "images.md"
TEXT = FILE.read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines()]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with what the page names in it."""
    folder = tmp_path_factory.mktemp("images")
    files.write_vit(folder / "vit")
    files.write_folder(folder / "flowers", 90)
    (folder / "flowers" / "dot").rename(folder / "flowers" / "rose")
    for i, path in enumerate(sorted((folder / "flowers" / "rose").iterdir())):
        path.rename(path.with_name(f"{i:03}.jpg"))  # whatever the name, what is in the file counts
    (folder / "holiday" / "day_1").mkdir(parents=True)
    shutil.copy(folder / "flowers" / "ring" / "002.png", folder / "holiday" / "day_1")
    shutil.copy(folder / "flowers" / "rose" / "003.jpg", folder / "holiday")
    images, labels = files.pictures(30, seed=5)
    labels = ["rose" if label == "dot" else label for label in labels]
    np.savez(folder / "new.npz", images=images, labels=np.array(labels))
    rows = [f"{path.relative_to(folder)},{path.parent.name}" for path in sorted((folder / "flowers").rglob("*.*"))]
    (folder / "pictures.csv").write_text("\n".join(["file,label", *rows]))
    files.write_npz(folder / "domains.npz", photo=(60, 2), sketch=(30, 3))
    shutil.copytree(folder / "flowers", folder / "scraped")
    (folder / "scraped" / "rose" / "000.jpg").write_text("<html>gone</html>")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="module")
def said(place: Path) -> dict[str, tuple[str, str]]:
    """What each command printed to standard output and error; all of them succeed."""
    import contextlib
    import io

    found = {}
    for command in COMMANDS:
        name, *arguments = shlex.split(command)
        assert name == "tl-jax"
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(arguments)
        assert status == 0, (command, err.getvalue())
        found[command] = out.getvalue(), err.getvalue()
    return found


def the(said: dict[str, tuple[str, str]], part: str) -> tuple[str, str]:
    """What the one command with this in it printed."""
    (command,) = (command for command in said if part in command)
    return said[command]


def test_the_page_has_the_commands_of_a_whole_way() -> None:
    assert {command.split()[1] for command in COMMANDS} == {"finetune", "predict", "evaluate", "export", "compare"}


def test_fine_tuning_says_what_it_does(said: Any, place: Path) -> None:
    _, err = the(said, "--out runs/flowers")
    assert "image column 'image' (of images), label column 'label' (by name)" in err
    assert "vit of " in err and "cls pooling, images of 12 × 12 × 3" in err and "opening " in err
    assert "32 images of 12 × 12" in err
    experiment = json.loads((place / "runs" / "flowers" / "experiment.json").read_text())
    assert experiment["task"] == "image_classification"
    out, _ = the(said, "--out runs/flowers")
    assert "tl-jax predict runs/flowers PICTURE.jpg" in out


def test_it_answers_for_pictures_and_folders(said: Any) -> None:
    answer = json.loads(the(said, "predict runs/flowers flowers/rose")[0])
    assert answer["image"] == "flowers/rose/001.jpg" and set(answer["probabilities"]) == {"bar", "ring", "rose"}
    lines = the(said, "predict runs/flowers holiday")[0].splitlines()
    assert [line.split()[-1] for line in lines] == ["holiday/003.jpg", "holiday/day_1/002.png"]


def test_it_is_scored_and_exported(said: Any, place: Path) -> None:
    assert "accuracy" in the(said, "evaluate")[0]
    assert json.loads((place / "exported" / "config.json").read_text())["architectures"] == [
        "ViTForImageClassification"
    ]
    card = (place / "exported" / "README.md").read_text()
    assert "image-classification" in card and "text" not in card.lower()


def test_transformers_loads_what_was_exported(said: Any, place: Path) -> None:
    import transformers

    pipeline = transformers.pipeline("image-classification", str(place / "exported"), device="cpu")
    answer = json.loads(the(said, "predict runs/flowers flowers/rose")[0])
    found = {row["label"]: row["score"] for row in pipeline(str(place / "flowers" / "rose" / "001.jpg"), top_k=3)}
    assert found == pytest.approx(answer["probabilities"], abs=2e-3)  # it may resize by another library's rounding


def test_the_comparison_has_a_table(said: Any) -> None:
    out, _ = the(said, "compare")
    assert all(method in out for method in ("scratch", "probe"))


def test_broken_pictures_are_counted(said: Any) -> None:
    _, err = the(said, "scraped")
    assert re.search(
        r"1 of \d+ training images cannot be read and are left out:\n  scraped/rose/000.jpg: it is no", err
    )
    assert main(["finetune", "--model", "./vit", "--data", "scraped", "--out", "runs/refused"]) == 2


def test_other_sizes_and_sets(said: Any) -> None:
    assert "images of 16 × 16 × 3" in the(said, "--image-size")[1]
    assert "image column 'file', label column 'label' (by name)" in the(said, "pictures.csv")[1]
    assert "30 to evaluate at the end" in the(said, "domains.npz:photo")[1]


def test_the_python_of_the_page(said: Any, place: Path) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    names: dict[str, Any] = {"__name__": "images"}
    exec(compile(block, FILE.name, "exec", dont_inherit=True), names)
    assert names["features"].shape == (1, 24)
    assert names["answer"][0]["label"] == "red" and names["answer"][1]["image"] == "flowers/rose/001.jpg"
