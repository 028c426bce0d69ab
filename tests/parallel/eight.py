"""What tests compute on eight devices: one CPU made to look like them, in a process of its own, for that is decided
before JAX starts.

    found = on_eight("steps", "full")        # what the function of that name here returns, through JSON
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import tiny as files

STEPS = 20
METHODS = {"full": 2e-4, "lora:rank=4": 5e-3}  # at the rates that are their defaults for a small model


def on_eight(name: str, *args: Any, **env: str) -> Any:
    """The result of `name(*args)` of this file, on eight devices."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    command = [sys.executable, "-m", "tests.parallel.eight", name, json.dumps(args, default=str)]
    environment = files.environment(XLA_FLAGS=flags, JAX_PLATFORMS="cpu", **env)
    done = subprocess.run(command, env=environment, cwd=files.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


# ------------------------------------------------------------------------------------------------- steps, one by one


def steps(folder: str, method: str, accumulate: int, *meshes: str) -> dict[str, Any]:
    """For one device and each mesh the losses of 20 steps with dropout on; where arrays lie, and what is exchanged."""
    import jax
    import numpy as np

    import tl_jax as tl
    from tl_jax import data
    from tl_jax.parallel import place
    from tl_jax.training.examples import prepare
    from tl_jax.training.optimizer import OptimizerSpec, decay_labels
    from tl_jax.training.state import create
    from tl_jax.training.step import compiled_train_step

    model, variables = tl.load(written(Path(folder)).mean)
    task = tl.tasks.TextClassification(labels=tuple(files.TOPICS))
    plan = tl.methods.parse(method)(task.attach(model), variables, jax.random.key(0))
    dataset = data.open(files.messages(210))["train"]
    examples = prepare(dataset, data.infer_columns(dataset), task.labels, model.processor, 40).examples
    labels, spec = decay_labels(plan.labels), OptimizerSpec()
    hyper = {"learning_rate": np.float32(METHODS[method]), "weight_decay": np.float32(0.01)}

    def trained(mesh: str | None) -> dict[str, Any]:
        placement = place(mesh, rows=16 // accumulate)
        batches = data.PackedBatches(examples, 16, 0, accumulate=accumulate, divisor=placement.row_parts)
        placed = placement.variables(plan.variables)
        state = create(placed, labels, spec.build(labels), jax.random.key(5))
        first = state = placement.state(state, placed)
        stored = {part: _stored(getattr(state, part)) for part in ("trainable", "frozen", "opt_state")}
        before = files.digests({"frozen": jax.tree.map(np.asarray, state.frozen)})
        step = compiled_train_step(
            plan.model, task.total_loss, spec, labels, accumulate=accumulate, placement=placement
        )
        losses = []
        with _compilations() as compiled:
            for i in range(STEPS):
                state, metrics = step(state, batches.batch(i), hyper)
                losses.append(float(metrics["loss_sum"]) / float(metrics["weight"]))
        found = {
            "losses": losses,
            "stored": stored,
            "stored_after": {part: _stored(getattr(state, part)) for part in stored},
            "frozen_kept": before == files.digests({"frozen": jax.tree.map(np.asarray, state.frozen)}),
            "donated": all(leaf.is_deleted() for leaf in jax.tree.leaves(first.trainable)),
            "compiled": compiled.count("jit(step)"),
        }
        if mesh is not None:
            batch = placement.batch(batches.batch(0), axis=int(accumulate > 1))
            hlo = step.__wrapped__.lower(state, batch, hyper).compile().as_text()
            found["collectives"] = _collectives(hlo)
            rows, length = batches.shapes[0][-2:]
            found["activations"] = _collectives(hlo, f"f32[{rows // placement.sizes['fsdp']},{length},32]")
        return found

    return {str(mesh): trained(mesh) for mesh in (None, *meshes)}


def _stored(tree: Any) -> int:
    """The bytes that the first device holds of all leaves but scalars."""
    import jax

    leaves = [leaf for leaf in jax.tree.leaves(tree) if leaf.ndim]
    shards = [shard for leaf in leaves for shard in leaf.addressable_shards if shard.device == jax.devices()[0]]
    return sum(shard.data.nbytes for shard in shards)


@contextlib.contextmanager
def _compilations() -> Iterator[list[str]]:
    import jax

    names: list[str] = []

    def heard(event: str, seconds: float, **about: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(str(about.get("fun_name", "?")))

    jax.monitoring.register_event_duration_secs_listener(heard)
    yield names
    jax.monitoring.unregister_event_duration_listener(heard)


_COLLECTIVE = re.compile(r"= (.*?) (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(")


def _collectives(hlo: str, shape: str = "") -> dict[str, int]:
    """How many arrays each kind of collective takes, by how many devices exchange them: `{"all-gather 2": 16, …}`;
    with `shape`, those of that shape.

    The compiler joins collectives of one kind into one of many arrays, so arrays are what can be derived.
    """
    found: Counter[str] = Counter()
    for line in hlo.splitlines():
        if match := _COLLECTIVE.search(line):
            kind = match[2]
            arrays = match[1].count(shape) if shape else len(re.findall(r"\w\d*\[", match[1]))
            found[kind if kind == "collective-permute" else f"{kind} {_group(line)}"] += arrays
    return {kind: arrays for kind, arrays in found.items() if arrays}


def _group(line: str) -> int:
    """The devices of one group, however it is written."""
    groups = line.partition("replica_groups=")[2]
    if match := re.match(r"\[\d+,(\d+)\]<=", groups):
        return int(match[1])
    if match := re.match(r"\{\{([\d,]+)\}", groups):
        return len(match[1].split(","))
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", groups.partition("]")[0]))
    axes = re.search(r"\{((?:'\w+'(?:, ?)?)+)\}", groups)
    assert axes, line
    return math.prod(int(sizes[name]) for name in re.findall(r"\w+", axes[1]))


# ------------------------------------------------------------------------------------------------------- whole runs


def written(folder: Path) -> files.Tiny:
    """The tiny model, of one layer, and its data, in `folder`: made there, or found."""
    model, train, test = folder / "model", folder / "messages.csv", folder / "new.csv"
    if not model.exists():
        files.write_bert(model, num_hidden_layers=1)
        files.write_csv(train, files.messages(210))
        files.write_csv(test, files.messages(60, seed=1))
    return files.Tiny(folder, model, model, train, test)


@contextlib.contextmanager
def stopping_after(steps: int) -> Iterator[None]:
    """Runs are asked to stop after that many steps."""
    from tl_jax.training import loop

    original = loop.Loop.__init__
    asked = iter([False] * (steps - 1) + [True])

    def stopping(self: Any, **given: Any) -> None:
        original(self, **{**given, "stop_asked": lambda: next(asked)})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Loop, "__init__", stopping)
        yield


def runs(folder: str, method: str, one: str, other: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Runs in `folder`: `whole` on the mesh `one`; stopped there and resumed there (`same`), resumed on the mesh
    `other`, or left for whom has one device (`down`). `up`, stopped on one device, is there and resumed on `one`."""
    import tl_jax as tl

    place, tiny = Path(folder), written(Path(folder))

    def tune(name: str, mesh: str | None, **more: Any) -> Any:
        return files.tune(tiny, place / name, method, mesh=mesh, **settings, **more)

    run = tune("whole", one)
    with stopping_after(8), contextlib.suppress(tl.Interrupted):
        tune("same", one)
    for copy in ("other", "down"):
        shutil.copytree(place / "same", place / copy)
    for name, mesh in (("same", one), ("other", other), ("up", one)):
        tune(name, mesh, resume=True)
    return {
        "evaluated": run.evaluate(tiny.test, batch_size=7),
        "seen": _seen(place / "whole", tiny.test),
        "predicted": [row["probabilities"] for row in run.predict(["where is my parcel", "refund"])],
    }


def one_run(folder: str, name: str, method: str, settings: dict[str, Any]) -> list[str]:
    """A run on eight devices, and the names of what was compiled."""
    with _compilations() as compiled:
        files.tune(written(Path(folder)), Path(folder) / name, method, **settings)
    return compiled


def compared(folder: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The scores of a comparison's cells, and the meshes they were trained on."""
    import tl_jax as tl
    from tl_jax.analysis import cells

    tiny, fit, meshes = written(Path(folder)), cells.fit, []

    def spied(*args: Any, placement: Any, **given: Any) -> Any:
        meshes.append(placement.facts()["mesh"])
        return fit(*args, placement=placement, **given)

    cells.fit = spied
    found = tl.compare(tiny.mean, tiny.train, eval_data=tiny.test, out=tiny.folder / "mesh", quiet=True, **settings)
    return {"scores": [cell.score for cell in found.results.cells], "meshes": meshes}


def _seen(run: Path, data: Path) -> list[int]:
    """The examples that metrics of an opened run are given, by index; it is asked on all devices."""
    import jax
    import numpy as np

    import tl_jax as tl

    seen: list[int] = []

    def note(outputs: Any, batch: Any) -> tuple[Any, Any]:
        seen.extend(batch["index"].tolist())
        assert len(outputs["logits"]) == len(batch["index"])
        return np.ones(len(batch["index"])), np.ones(len(batch["index"]))

    opened = tl.open_run(run, task=tl.tasks.TextClassification(metrics={"one": note}))
    opened.evaluate(data, batch_size=16)
    assert all(leaf.sharding.num_devices == 8 for leaf in jax.tree.leaves(opened._placed))
    return seen


def refused(folder: str, *meshes: str) -> list[Any]:
    """`tl-jax finetune --mesh` with each of these, and with more words after a `;`: exit code and what was said."""
    from tl_jax.cli.main import main

    base = ["finetune", "--model", f"{folder}/model", "--data", f"{folder}/messages.csv", "--out", f"{folder}/refused"]
    found = []
    for mesh, _, more in (text.partition(";") for text in meshes):
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            code = main([*base, "--mesh", mesh, *more.split()])
        found.append([code, said.getvalue()])
    return found


def own_rules(folder: str) -> dict[str, Any]:
    """A probe with rules of its own on four of the devices; and what is said of a rule that decides nothing."""
    from jax.sharding import PartitionSpec as P

    import tl_jax as tl

    tiny, rules = written(Path(folder)), [(r".*/embedding", P(None, "fsdp")), (r"layers_0/.*/kernel", P("fsdp"))]
    try:
        files.tune(tiny, tiny.folder / "wrong", "probe", mesh="fsdp=4", shardings=[*rules, ("layers_1/.*", P())])
    except tl.InputError as error:
        said = str(error)
    run = files.tune(tiny, tiny.folder / "own", "probe", mesh="fsdp=4", shardings=rules)
    return {"said": said, "metrics": run.metrics}


def placements() -> dict[str, Any]:
    """Where a finished run is asked, by the mesh it had; whether a step's result lies as its state did."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from tl_jax.parallel import place, place_again

    placement = place("fsdp=4,tensor=2", rows=8)
    variables = {"params": {"attention": {"query": {"kernel": np.ones((8, 8), np.float32)}}}}
    state = placement.state({"mu": placement.variables(variables), "count": np.zeros(())}, variables)
    new = jax.jit(lambda state: placement.kept(jax.tree.map(jnp.zeros_like, state), variables))(state)
    same = jax.tree.map(lambda a, b: a.sharding == b.sharding, new, state)
    asked = ("data=4,fsdp=2", "fsdp=4", "data=16", "data=3", "auto", "data=1")
    return {
        "again": {text: place_again(text).facts()["mesh"] for text in asked},
        "kept": jax.tree.leaves(same),
        "cut": [str(leaf.sharding.spec) for leaf in jax.tree.leaves(new["mu"])],
    }


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](*json.loads(sys.argv[2]))))
