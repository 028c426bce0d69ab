"""A run's folder on disk: who may write into it, and what lies where.

experiment.json  manifest.json  metrics.jsonl  summary.json  checkpoints/<step>/  checkpoints/best/
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from tl_jax import pretrained
from tl_jax.errors import InputError, nearest
from tl_jax.experiment import Experiment
from tl_jax.manifest import machine_changes, read_json, write_json, write_text


class RunFolder:
    """The places in a run's folder."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.experiment_file = self.path / "experiment.json"
        self.manifest_file = self.path / "manifest.json"
        self.metrics_file = self.path / "metrics.jsonl"
        self.summary_file = self.path / "summary.json"
        self.checkpoints = self.path / "checkpoints"

    @property
    def is_run(self) -> bool:
        return self.experiment_file.is_file()

    @property
    def begun(self) -> bool:
        """Whether there is something to go on with; a run killed while `begin` wrote it has nothing yet."""
        return self.is_run and self.manifest_file.is_file()

    def method(self) -> str | None:
        """The method that leaves nothing open, as the manifest has it; None in runs from before it did."""
        found = read_json(self.manifest_file).get("method")
        return None if found is None else str(found)

    @property
    def finished(self) -> bool:
        return self.begun and self.summary_file.is_file()

    def check_free(self, *, resume: bool, overwrite: bool) -> None:
        """Raise `InputError` unless a run may be written here; touches nothing."""
        if resume and overwrite:
            raise InputError("--resume and --overwrite exclude each other: go on with the run, or replace it")
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"--out {self.path} is a file; a run needs a folder")
        if not self.path.is_dir() or all(p.name == ".experiment.json.partial" for p in self.path.iterdir()):
            return
        if not self.is_run:
            raise InputError(f"--out {self.path} holds something that is not a run; choose another folder")
        if not resume and not overwrite:
            raise InputError(
                f"--out {self.path} holds a run already: --resume goes on with it, --overwrite replaces it, "
                "or choose another --out"
            )

    def check_same(self, experiment: Experiment, manifest: dict[str, Any]) -> None:
        """Raise `InputError` if the run here is of another experiment or other data, saying which parts differ."""
        before = read_json(self.manifest_file)
        saved = Experiment.load(self.path)
        same = {key: before.get(key) == manifest[key] for key in ("data", "labels", "max_length", "loss", "recipe")}
        same["model"] = all(before["model"].get(key) == manifest["model"][key] for key in ("files", "variables"))
        # A path is only a name: what lies there counts.
        names = {"model": ("model",), "data": ("data", "eval_data")}
        moved = [name for part, fields in names.items() if same[part] for name in fields]
        # Mesh and cache are of the machine, not of the experiment: `machine_changes` tells of them.
        differences = saved.differences(experiment, ignoring=(*moved, "mesh", "no_cache"))
        if not differences:
            differences = [f"the {key} changed since the run began" for key, as_before in same.items() if not as_before]
        if differences:
            raise InputError(
                f"cannot resume {self.path}, a run of another experiment:\n  "
                + "\n  ".join(differences)
                + "\nchoose another --out, or --overwrite"
            )

    def machine_changes(self, manifest: dict[str, Any]) -> str:
        """What of the machine is not as when the run began; "" on the same kind, where the same bits are promised."""
        return machine_changes(read_json(self.manifest_file)["machine"], manifest["machine"])

    def source(self, model: str | Path | None = None) -> pretrained.Source:
        """Where the pre-trained weights lie, checked to be those the run was made from; `model` if they moved.

        Raises `InputError` for weights that are gone or changed since, naming the files.
        """
        recorded = read_json(self.manifest_file)["model"]
        places = [recorded["source"], recorded["folder"]] if model is None else [str(model)]
        name = next((place for place in places if place and Path(place).exists()), places[0])
        if name is None:
            raise InputError(
                f"the run {self.path} was made from a model in memory, which a folder cannot bring back: "
                "give it again, tl.open_run(folder, model=(model, variables)), or the plan it was made from"
            )
        try:
            source = pretrained.resolve(name, recorded["revision"] if name == recorded["source"] else None)
        except InputError as e:
            hint = f"the run {self.path} was made from {recorded['source']}; if that moved, give --model"
            raise InputError(f"{e}\n{hint}") from None
        if recorded["files"]:
            pretrained.check_unchanged(source, recorded["files"])
        return source

    def source_for(self, model: str | None) -> pretrained.Source:
        """`source()` for a resumed run: the name it was begun with is looked up as recorded, another is a new place."""
        return self.source(None if model == Experiment.load(self.path).model else model)

    def begin(self, experiment: Experiment, manifest: dict[str, Any]) -> None:
        """Write what defines the run, after clearing what an earlier one left.

        The manifest goes first and comes last: while it is not there, the run counts as not begun.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            for file in (self.manifest_file, self.summary_file, self.metrics_file):
                file.unlink(missing_ok=True)
            if self.checkpoints.is_dir():
                shutil.rmtree(self.checkpoints)
        except OSError as e:
            raise InputError(f"cannot write the run to {self.path}: {e.strerror or e}") from None
        write_text(self.experiment_file, experiment.to_json())
        write_json(self.manifest_file, manifest)

    def finish(self, summary: dict[str, Any]) -> None:
        """Write the summary: from here on the run is finished."""
        write_json(self.summary_file, summary)


def existing_run(path: str | Path) -> RunFolder:
    """The folder of a run that exists; raises `InputError` with the nearest folder otherwise."""
    folder = RunFolder(path)
    if folder.is_run:
        return folder
    if folder.path.exists():
        raise InputError(f"{path} is not a run: it has no experiment.json")
    parent = folder.path.parent
    runs = [str(p.parent) for p in parent.glob("*/experiment.json")] if parent.is_dir() else []
    close = nearest(str(path), runs) or runs[:3]
    raise InputError(f"no run folder {path}" + (f"; did you mean {' or '.join(close)}?" if close else ""))
