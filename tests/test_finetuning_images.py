"""Fine-tuning on images as a whole: what is inferred, what is refused and how, what comes out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tl_jax as tl
from tests import images as files
from tests.chains import fault
from tests.images import HEAD, Seen
from tests.tiny import Tiny, digests
from tl_jax import preparation
from tl_jax.cli import predict
from tl_jax.cli.main import main
from tl_jax.pictures import Picture


def test_the_task_follows_from_what_the_model_reads(seen: Seen, tiny: Tiny) -> None:
    def task(model: Any, **settings: Any) -> str | None:
        return preparation.request(model, "data.csv", settings).experiment.task

    assert task(seen.model) == task(str(seen.model)) == "image_classification"
    assert task(tl.load(seen.model)) == "image_classification"
    assert task(tiny.mean) is task(tl.load(tiny.mean)) is task("./no-such-model") is None  # which is that of texts
    assert task(seen.model, task="text_classification") == "text_classification"
    assert task(tl.Experiment(model=str(seen.model), data="x")) == "image_classification"


def test_a_run_keeps_what_it_needs_and_is_opened_again(
    seen: Seen, tuned_on_images: Callable[[str], Any], tmp_path: Path
) -> None:
    run = tuned_on_images("probe")
    assert run.manifest["columns"] == {"image": "image", "label": "label"} and run.manifest["pooling"] == "cls"
    assert run.manifest["task"] == "image_classification" and run.role == "image"
    opened = tl.open_run(run.folder, say=lambda text: None)
    image = files.pictures(3)[0][1]
    Image.fromarray(image).save(tmp_path / "a.png")
    ways = [image, Image.fromarray(image), tmp_path / "a.png", str(tmp_path / "a.png")]
    answers = opened.predict(ways)
    assert [a["image"] for a in answers] == ["an image in memory"] * 2 + [str(tmp_path / "a.png")] * 2
    assert len({json.dumps({**answer, "image": ""}) for answer in answers}) == 1
    assert answers[0]["label"] == "dot"
    model, variables = tl.load(run.folder)
    logits = model.apply(variables, model.processor([image]))["logits"]
    assert run.labels[int(np.argmax(logits))] == "dot"
    assert "a list of images, not one image" in fault(opened.predict, tmp_path / "a.png")
    assert "temperature is for language models" in fault(lambda: opened.predict(ways, temperature=0.5))


def test_broken_images_in_a_question(seen: Seen, tuned_on_images: Callable[[str], Any], tmp_path: Path) -> None:
    (tmp_path / "b.png").write_text("no image")
    good = files.pictures(2)[0]
    run = tuned_on_images("probe")
    assert f"1 of 3 images cannot be read (--corrupt skip leaves them out):\n  {tmp_path / 'b.png'}" in fault(
        run.predict, [good[0], tmp_path / "b.png", good[1]]
    )
    assert len(run.predict([good[0], tmp_path / "b.png", good[1]], corrupt="skip")) == 2
    assert "--corrupt 'drop' is not known" in fault(run.predict, [good[0]], corrupt="drop")
    lenient = files.tune(seen, tmp_path / "run", "probe", corrupt="skip")
    assert "1 of 1 images cannot be read" in fault(lenient.predict, [tmp_path / "b.png"], corrupt="refuse")
    said: list[str] = []
    answers = tl.open_run(lenient.folder, say=said.append).predict([tmp_path / "b.png", good[0], good[1]])
    assert len(answers) == 2 and "1 of 3 images cannot be read and are left out" in said[-1]
    assert lenient.predict([tmp_path / "b.png"]) == []


def test_the_command_goes_on_after_images_none_of_which_can_be_read(
    tuned_on_images: Callable[[str], Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setattr(predict, "IMAGES_AT_ONCE", 1)
    run = str(tuned_on_images("probe").folder)
    paths = [str(tmp_path / name) for name in ("a.png", "b.png", "c.png")]
    for path in paths[::2]:
        Image.fromarray(files.pictures(1)[0][0]).save(path)
    Path(paths[1]).write_text("no image")
    assert main(["predict", run, *paths, "--corrupt", "skip"]) == 0
    assert [json.loads(line)["image"] for line in capsys.readouterr().out.splitlines()] == paths[::2]
    assert main(["predict", run, paths[1], "--corrupt", "skip"]) == 2
    assert f"{paths[1]} holds no image that can be read" in capsys.readouterr().err
    assert main(["predict", run, paths[0], str(tmp_path / "list.txt")]) == 2
    assert f"cannot read {tmp_path / 'list.txt'}: No such file" in capsys.readouterr().err


def test_an_image_of_pillow_is_turned_upright_as_its_file_is(
    tuned_on_images: Callable[[str], Any], tmp_path: Path
) -> None:
    lying = Image.fromarray(files.pictures(1)[0][0])
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    lying.save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as opened:
        pixels = np.asarray(Picture.of(opened).open())
    assert np.array_equal(pixels, np.asarray(Picture.of(tmp_path / "a.png").open()))
    assert not np.array_equal(pixels, np.asarray(lying))


@pytest.mark.parametrize(
    ("data", "settings", "said"),
    [
        ([("a text", "a"), ("another", "b")], {}, "no column holds paths of images"),
        (None, {"task": "causal_lm"}, "the column 'image' holds images, and texts are asked for"),
        ([("a text", "a"), ("b", "b")], {"task": "causal_lm"}, "a vit reads images and is no language model"),
        (
            [("x.png", "a"), ("y.png", "b"), ("z.png", "a")],
            {},
            "images cannot be read (--corrupt skip leaves them out):",
        ),
        (None, {"task": "text_classification"}, "the column 'image' holds images, and texts are asked for"),
        (None, {"image_size": 2}, "the image size 2 has no room for a patch of 4"),
        (None, {"pooling": "last"}, "images are pooled by auto, cls, mean, pooler, not 'last'"),
        (None, {"augment": "crops"}, "--augment 'crops' is not known; did you mean 'crop'"),
        (None, {"corrupt": "drop"}, "--corrupt 'drop' is not known"),
        (None, {"image_column": "picture"}, "no column 'picture'"),
    ],
)
def test_mistakes_are_told(data: Any, settings: dict[str, Any], said: str, seen: Seen, tmp_path: Path) -> None:
    given = seen.train if data is None else data
    assert said in fault(tl.finetune, seen.model, given, out=tmp_path / "run", quiet=True, **settings)
    assert not (tmp_path / "run").exists()


def test_a_folder_without_a_processor(seen: Seen, tmp_path: Path) -> None:
    shutil.copytree(seen.model, tmp_path / "vit")
    (tmp_path / "vit" / "preprocessor_config.json").unlink()
    said = fault(tl.finetune, tmp_path / "vit", seen.train, out=tmp_path / "run", quiet=True)
    assert "has no image processor (preprocessor_config.json): images cannot be encoded" in said
    said = fault(tl.finetune, tl.load(seen.model), seen.train, image_size=16, out=tmp_path / "run", quiet=True)
    assert "load it for another size of image, tl.load(…, image_size=)" in said


def test_another_size_is_kept_by_the_run(seen: Seen, tmp_path: Path) -> None:
    run = files.tune(seen, tmp_path / "run", "probe", image_size=16)
    opened = tl.open_run(run.folder, say=lambda text: None)
    image = files.pictures(3)[0]
    assert opened.model.processor.shape == (16, 16, 3)
    assert opened.predict(list(image)) == run.predict(list(image))


def test_a_model_that_is_none_is_told_before_its_data(seen: Seen, tuned_on_images: Any, tmp_path: Path) -> None:
    run = tuned_on_images("probe").folder
    (tmp_path / "empty").mkdir()
    for name, said in (
        (seen.model / "nothere.safetensors", "there is no file"),
        (tmp_path / "nothere", "there is no folder"),
        (tmp_path / "empty", "it holds no config.json"),
        (run, f"is a run and no model: tl-jax export {run} FOLDER"),
    ):
        assert said in fault(tl.finetune, str(name), seen.train, out=tmp_path / "run", quiet=True)


def test_a_comparison_at_another_size(seen: Seen, tmp_path: Path) -> None:
    given = {"methods": "probe", "shots": "4", "seeds": 1, "image_size": 16, "quiet": True}
    found = tl.compare(str(seen.model), seen.train, out=tmp_path / "compared", **given)
    assert len(found.results.cells) == 1
    said = fault(tl.compare, tl.load(seen.model), seen.train, out=tmp_path / "refused", **given)
    assert "load it for another size of image" in said and not (tmp_path / "refused").exists()


def test_settings_of_texts_are_told_of(seen: Seen, tiny: Tiny, tmp_path: Path, capsys: Any) -> None:
    given = {"method": "probe", "dry_run": True, "out": tmp_path / "run"}
    tl.finetune(seen.model, seen.train, max_length=9, **given)
    assert "note: the model reads images: max_length change nothing" in capsys.readouterr().err
    tl.finetune(tiny.mean, tiny.train, augment="crop+flip", corrupt="skip", **given)
    assert "note: the model reads texts: augment, corrupt change nothing" in capsys.readouterr().err


def test_a_distilled_model_becomes_a_plain_classifier(seen: Seen, tmp_path: Path) -> None:
    import transformers

    config = transformers.DeiTConfig(
        **{k: v for k, v in files.CONFIG.items() if k not in ("architectures", "model_type")}, num_labels=7
    )
    transformers.DeiTForImageClassificationWithTeacher(config).save_pretrained(tmp_path / "deit")
    shutil.copy(seen.model / "preprocessor_config.json", tmp_path / "deit")
    run = tl.finetune(tmp_path / "deit", seen.train, out=tmp_path / "run", quiet=True, **files.settings("probe"))
    out = run.export(tmp_path / "out")
    assert json.loads((out / "config.json").read_text())["architectures"] == ["DeiTForImageClassification"]
    model, variables = tl.load(out)
    assert digests(variables) == digests({"params": run.variables["params"]}) and model.info.labels == files.LABELS


def test_a_network_of_ones_own(seen: Seen, tmp_path: Path) -> None:
    """With batch norm, whose statistics stand still under a probe and move when all trains."""
    import flax.linen as nn
    import jax

    class Net(nn.Module):
        @nn.compact
        def __call__(self, image, train: bool = False):  # type: ignore[no-untyped-def]
            x = nn.Conv(8, (3, 3), (2, 2), name="conv")(image)
            x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(x))
            return x.mean((1, 2))

    processor = tl.pretrained.ImageProcessor({"size": 12})
    model = tl.Model.from_linen(Net(), writes="pooled", processor=processor)
    images = files.pictures(60)
    variables = model.init(jax.random.key(0), processor(list(images[0][:1])))
    data = list(zip(*images, strict=True))
    for method, moves in (("probe", False), ("full", True)):
        settings = files.settings(method, lr=1e-2) if method == "full" else files.settings(method)
        run = tl.finetune((model, variables), data, out=tmp_path / method, quiet=True, **settings)
        before, after = (digests({"s": v["batch_stats"]}) for v in (variables, run.variables))
        assert all((before[path] != after[path]) == moves for path in before)
        assert run.predict(list(images[0][:2]))[0]["image"] == "an image in memory"


def test_a_step_on_features_reads_no_image(seen: Seen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tl_jax.data import encoded_images

    files.tune(seen, tmp_path / "one", HEAD)  # what it needs is kept
    opened: list[int] = []
    original = encoded_images.EncodedImages._pixels
    monkeypatch.setattr(
        encoded_images.EncodedImages, "_pixels", lambda self, *given: opened.append(1) or original(self, *given)
    )
    run = files.tune(seen, tmp_path / "two", HEAD)
    assert run.summary["steps"] > len(opened)  # a batch for shapes and for the table, none for a step


def test_predict_by_the_command(
    tuned_on_images: Callable[[str], Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    run = str(tuned_on_images("probe").folder)
    files.write_folder(tmp_path / "set", 6)
    rows = [str(path.relative_to(tmp_path)) for path in sorted((tmp_path / "set").rglob("*.png"))]
    (tmp_path / "new.csv").write_text("\n".join(["id,file", *(f"{i},{row}" for i, row in enumerate(rows))]))
    (tmp_path / "new.txt").write_text("\n".join(str(tmp_path / row) for row in rows))
    files.write_npz(tmp_path / "new.npz", test=(6, 0))
    monkeypatch.chdir(tmp_path)
    answers = []
    for ways in (["set"], rows, ["new.csv"], ["new.txt"], ["new.npz"]):
        assert main(["predict", run, *ways]) == 0
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert len(lines) == 6
        answers.append(sorted(line["label"] for line in lines))
    assert all(answer == answers[0] for answer in answers)
    (tmp_path / "empty").mkdir()
    assert main(["predict", run, "empty"]) == 2
    assert "empty holds no image" in capsys.readouterr().err
    assert main(["predict", run, "nothing.png"]) == 2
    assert "nothing.png: there is no such file" in capsys.readouterr().err
