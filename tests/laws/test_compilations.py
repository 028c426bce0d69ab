"""Law 11: one compilation a shape, at most four training shapes, and none for what is only a number."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import tl_jax as tl
from tests import tiny as files
from tests.tiny import HEAD, Tiny
from tl_jax.model import Model
from tl_jax.training import step as steps

CHANGES: tuple[dict[str, Any], ...] = (
    {"lr": 3e-3},
    {"weight_decay": 0.1},
    {"seed": 7},
    {"steps": 17},
    {"epochs": 3},
    {"schedule": "cosine", "warmup": 3},
    {"schedule": "one_cycle", "warmup": None},
    {"patience": 1},
    {"data": files.messages(200, seed=5)},
)


@pytest.fixture(autouse=True)
def nothing_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Features that an earlier test kept on disk would hide a compilation until the data change."""
    monkeypatch.setenv("TL_JAX_CACHE", str(tmp_path / "cache"))


@contextmanager
def compilations() -> Iterator[list[str]]:
    """The names of what XLA is asked to compile meanwhile, cached on disk or not."""
    names: list[str] = []

    def heard(event: str, seconds: float, **about: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(str(about.get("fun_name", "?")))

    jax.monitoring.register_event_duration_secs_listener(heard)
    try:
        yield names
    finally:
        jax.monitoring.unregister_event_duration_listener(heard)


def texts_of_all_lengths(count: int) -> list[tuple[str, str]]:
    """Messages of 3 to 38 words, each length about as often as the others."""
    rng = np.random.default_rng(0)
    labels = list(files.TOPICS)
    words = [[*rng.choice(files.FILLERS, 2 + i % 36), rng.choice(files.TOPICS[labels[i % 3]])] for i in range(count)]
    return [(" ".join(some), labels[i % 3]) for i, some in enumerate(words)]


def test_numbers_compile_nothing(tiny: Tiny, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"lr": 1e-2, "epochs": 2, "eval_data": tiny.test}
    files.tune(tiny, tmp_path / "first", HEAD, **settings)
    before = steps._compiled_train_step.cache_info()
    with compilations() as names:
        for i, change in enumerate(CHANGES):
            run = files.tune(tiny, tmp_path / str(i), HEAD, **{**settings, **change})
            assert run.summary["shapes_compiled"] == 1  # by this run's own count, whoever compiled it
    assert names == []
    after = steps._compiled_train_step.cache_info()
    assert after.misses == before.misses and after.hits > before.hits


@pytest.mark.parametrize("packs", [True, False])
def test_few_training_shapes_fixed_by_the_data(
    packs: bool, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One where examples share rows, at most four where each has its own."""
    monkeypatch.setattr(Model, "packs", packs)
    width = 36 if packs else 40  # a model of its own each, so that nothing is compiled yet
    model = files.write_bert(tmp_path / "model", num_hidden_layers=1, intermediate_size=width)
    rows = texts_of_all_lengths(600)
    with compilations() as names:
        run = tl.finetune(model, rows, method=HEAD, lr=1e-2, epochs=2, batch_size=16, out=tmp_path / "run")
    said = capsys.readouterr().err.splitlines()
    compiling = [line.partition(" (") for line in said if line.startswith("compiling ")]
    count = len(compiling)
    assert count == 1 if packs else 2 <= count <= 4
    assert [line[0] for line in compiling] == [f"compiling {i + 1} of {count} shapes" for i in range(count)]
    assert run.summary["shapes_compiled"] == count == len({line[2] for line in compiling})
    assert run.summary["compile_seconds"] > 0
    evaluations = len(run.manifest["batch"]["lengths"])
    assert count < names.count("jit(step)") <= count + evaluations  # of training, and of evaluation

    shapes = sorted(line[2].rstrip(")").removesuffix(" tokens") for line in compiling)
    sizes = (
        f"16 in {shapes[0]}" if packs else f"16 × {' or '.join(sorted((s.split(' × ')[1] for s in shapes), key=int))}"
    )

    # Another seed, another order of the data: the same shapes.
    for seed, order in ((0, 1), (1, 1), (2, -1)):
        table = tl.finetune(model, rows[::order], method=HEAD, batch_size=16, seed=seed, dry_run=True, quiet=True)
        assert f" of {sizes} tokens" in table


@pytest.mark.parametrize("method", ["full"])
def test_a_resumed_run_compiles_each_shape_once(method: str, tiny: Tiny, tmp_path: Path) -> None:
    """An array that came from a checkpoint must not look other to the compiler than one that came from a step."""
    from tl_jax.training import loop

    out = tmp_path / "run"
    asked = iter([False] * 11 + [True])  # evaluated by then
    original = loop.Loop.__init__

    def stopping(self: Any, **given: Any) -> None:
        original(self, **{**given, "stop_asked": lambda: next(asked)})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Loop, "__init__", stopping)
        with pytest.raises(tl.Interrupted, match="stopped after step 12 of 60, saved"):
            files.tune(tiny, out, method)
    with compilations() as names:
        run = files.tune(tiny, out, method, resume=True)
    assert run.summary["steps"] == 60
    assert "jit(step)" not in names


def test_one_compilation_a_phase_and_none_for_another_average(tiny: Tiny, tmp_path: Path) -> None:
    """Thawing compiles a step of its own; a second run, a resumed one, another decay of the average compile nothing."""
    model = tl.load(files.write_bert(tmp_path / "model", intermediate_size=40))  # of its own
    given: dict[str, Any] = {"method": "gradual_unfreezing:phases=3", "lr": 5e-3, "epochs": 4, "batch_size": 16}
    with compilations() as names:
        run = tl.finetune(model, tiny.train, **given, ema=0.9, out=tmp_path / "a", quiet=True)
    # And two of evaluation: from the features that the first phases share, and of the whole chain.
    assert run.summary["shapes_compiled"] == 3 and names.count("jit(step)") == 5 and names.count("jit(_below)") == 1
    with compilations() as names:
        tl.finetune(model, tiny.train, **given, ema=0.99, out=tmp_path / "b", quiet=True)
    assert "jit(step)" not in names
