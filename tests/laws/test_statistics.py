"""Law 4 on batch norm: what a real step moves of a ResNet and what not, and how far; what is frozen keeps its bits.

The images are arrays: steps are `tl.train_step` itself.
"""

from __future__ import annotations

import shutil
import zlib
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest

import tl_jax as tl
from tests import chains
from tests.models import resnets
from tests.models.convolutional import mapped, tensors
from tests.models.test_resnet import model_of, shapes_of
from tests.parity import assert_close, assert_same_bits
from tests.tiny import digests
from tests.training import toy
from tl_jax.groups import FROZEN, Group
from tl_jax.methods import parse
from tl_jax.models.resnet import CONFIG, NAMES
from tl_jax.rules import paths
from tl_jax.training.checkpoint import Checkpoints
from tl_jax.training.optimizer import OptimizerSpec, decay_labels
from tl_jax.training.state import create, from_flat, to_flat, variables
from tl_jax.training.step import train_step

SPEC = OptimizerSpec()
# The stages that train, in a chain of stem, blocks_0, blocks_1, pooler and head.
TRAINED = {
    "full": {"stem", "blocks_0", "blocks_1", "head"},
    "discriminative": {"stem", "blocks_0", "blocks_1", "head"},
    "bitfit": {"stem", "blocks_0", "blocks_1", "head"},
    "last_layers:k=1": {"blocks_1", "head"},
    "last_layers:k=0": {"head"},
}


def begun(method: str, rng: np.random.Generator, seed: int, **options: Any) -> tuple[Any, Any, Any, Any]:
    """The variables before, the labels, the first state, and the step of a method on a ResNet."""
    model = chains.resnet()
    values = toy.start(model, rng)
    plan = parse(method)(model, values, jax.random.key(seed), inputs=chains.image(rng))
    labels = decay_labels(plan.labels)
    tx = SPEC.build(labels)
    state = create(plan.variables, labels, tx, jax.random.key(seed), **options)
    return values, labels, state, jax.jit(train_step(model, toy.loss, tx))


@pytest.mark.parametrize("method", TRAINED)
def test_statistics_move_in_the_stages_that_train_and_in_no_other(method, rng, seed):
    values, labels, state, step = begun(method, rng, seed)
    for _ in range(3):
        state, metrics = step(state, toy.batch(chains.resnet(), rng), toy.hyper(decay=0.1))
        assert bool(metrics["finite"])
    before, after, decided = paths(values), paths(variables(state)), paths(labels)
    assert before.keys() == after.keys()
    for path in before:
        same = np.asarray(after[path]).tobytes() == before[path].tobytes()
        if path.startswith("batch_stats/"):
            assert same == (path.split("/")[1] not in TRAINED[method]), path
        else:
            assert same == (decided[path] is FROZEN), path


def test_steps_above_a_frozen_part_are_torch_s(rng, seed):
    """Three steps of plain gradient descent, the lower modules of torch's net frozen and in evaluation mode."""
    import torch

    raw = resnets.draw_cifar(rng, num_channels=2, depths=[1, 1, 1])
    reference, model = resnets.of_torch(raw, seed).train(), model_of(raw)
    names, shapes = NAMES(CONFIG(raw)), shapes_of(model, raw)
    values = mapped(names, tensors(reference), shapes)
    for name in ("conv1", "bn1", "layer1", "layer2"):
        getattr(reference, name).eval().requires_grad_(False)
    descent = torch.optim.SGD([leaf for leaf in reference.parameters() if leaf.requires_grad], lr=0.1)

    labels = toy.label(values, [("(blocks_2|head)/.*", Group("top")), (".*", FROZEN)])
    tx = optax.sgd(0.1)
    state, step = create(values, labels, tx, jax.random.key(0)), jax.jit(tl.train_step(model, toy.loss, tx))
    for _ in range(3):
        images, targets = resnets.image(raw, rng, rows=6), rng.integers(0, resnets.LABELS, 6)
        batch = {"image": images, "targets": targets.astype(np.int32), "weights": np.ones(6, np.float32)}
        state, metrics = step(state, batch, {})
        loss = torch.nn.functional.cross_entropy(
            reference(torch.tensor(images).permute(0, 3, 1, 2)), torch.tensor(targets), reduction="sum"
        )
        assert abs(float(metrics["loss_sum"]) - float(loss.detach())) <= 1e-5 * float(loss.detach())
        descent.zero_grad()
        (loss / 6).backward()
        descent.step()
    after, moved = variables(state), mapped(names, tensors(reference), shapes)
    assert_close(paths(after), paths(moved))
    still = {path: leaf for path, leaf in paths(values).items() if not path.startswith(("blocks_2/", "head/"))}
    still = {path: leaf for path, leaf in still.items() if not path.startswith("batch_stats/blocks_2")}
    assert_same_bits({path: paths(after)[path] for path in still}, still)


def test_a_resumed_state_has_its_statistics_and_its_average(rng, seed, tmp_path):
    """Law 8 on a ResNet: two steps, a checkpoint on disk, two more; and four in one go."""
    values, labels, state, step = begun("last_layers:k=1", rng, seed, averaged=True)
    batches = [toy.batch(chains.resnet(), rng) for _ in range(4)]
    hyper = {**toy.hyper(), "ema": np.float32(0.5)}
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for batch in batches[:2]:
        state, _ = step(state, batch, hyper)
    checkpoints.save(2, to_flat(state), {})
    for batch in batches[2:]:
        state, _ = step(state, batch, hyper)
    fresh = create(values, labels, SPEC.build(labels), jax.random.key(1), averaged=True)
    again = from_flat(fresh, checkpoints.restore().arrays)
    for batch in batches[2:]:
        again, _ = step(again, batch, hyper)
    assert toy.bits(to_flat(again)) == toy.bits(to_flat(state))
    kept = variables(state)
    assert_same_bits(kept["batch_stats"], state.statistics)  # the average is of what trains alone
    assert not np.array_equal(kept["params"]["head"]["kernel"], state.trainable["params"]["head"]["kernel"])


class Normed(nn.Module):
    """A text network with batch norms, one of them below the part that trains."""

    @nn.compact
    def __call__(self, tokens, mask, train: bool = False):
        x = nn.Embed(64, 8, name="embed")(tokens)
        x = (x * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
        x = nn.BatchNorm(not train, momentum=0.9, name="lower")(x)
        return nn.BatchNorm(not train, momentum=0.9, name="upper")(nn.tanh(nn.Dense(8, name="dense")(x)))


def test_a_run_keeps_statistics_with_its_best_weights(tmp_path: Path, seed: int) -> None:
    """Through `tl.finetune`: its checkpoints, the best weights, opening the run again, saving and loading."""
    tokenizer = tl.pretrained.OwnTokenizer(lambda text: [1 + zlib.crc32(w.encode()) % 63 for w in text.split()], 8)
    model = tl.Model.from_linen(Normed(), writes="pooled", processor=tokenizer)
    loaded = model.init(jax.random.key(seed))
    rows = [(f"my {thing} {end}", thing) for thing in ("card", "parcel") for end in "is was got went a b c d".split()]
    run = tl.finetune((model, loaded), rows, method="full", steps=8, lr=1e-2, ema=0.5, out=tmp_path / "run", quiet=True)
    before, after = digests(run.plan.variables), digests(run.variables)
    assert {path for path in after if path.startswith("batch_stats/")} == {
        f"batch_stats/{norm}/{name}" for norm in ("lower", "upper") for name in ("mean", "var")
    }
    assert all(before[path] != after[path] for path in after if path.startswith("batch_stats/"))
    again = tl.open_run(tmp_path / "run", model=(model, loaded))
    assert digests(again.variables) == after
    asked = ["my card is", "my parcel went away"]
    assert again.predict(asked) == run.predict(asked)
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "best")
    said: list[str] = []
    last = tl.open_run(tmp_path / "run", model=(model, loaded), say=said.append)
    assert "without the best checkpoint this is the model after the last step, 8" in said[-1]
    kept = Checkpoints(tmp_path / "run" / "checkpoints").restore()
    assert kept is not None and kept.step == 8
    for path, leaf in paths(last.variables).items():
        name = path.replace("batch_stats/", "statistics/") if path.startswith("batch_stats/") else f"average/{path}"
        assert np.array_equal(leaf, kept.arrays[name]), path
    tl.save(tmp_path / "saved", run.model, run.variables)
    assert digests(tl.load(tmp_path / "saved", model=run.model)[1]) == after
