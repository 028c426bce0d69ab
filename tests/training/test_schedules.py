from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tl_jax.errors import InputError
from tl_jax.training.schedules import SCHEDULES, schedule, warmup_steps


@pytest.fixture(scope="module")
def transformers() -> dict[str, object]:
    library = pytest.importorskip("transformers")
    return {
        "linear": library.get_linear_schedule_with_warmup,
        "cosine": library.get_cosine_schedule_with_warmup,
        "constant": lambda optimizer, warmup, total: library.get_constant_schedule_with_warmup(optimizer, warmup),
    }


@pytest.mark.parametrize(("total", "warmup"), [(10, 0), (10, 3), (10, 10), (1, 0), (97, 10)])
@pytest.mark.parametrize("name", ["linear", "cosine", "constant"])
def test_equal_to_transformers(transformers: dict, name: str, total: int, warmup: int) -> None:
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=3e-4)
    theirs = transformers[name](optimizer, warmup, total)
    ours = schedule(name, peak=3e-4, total=total, warmup=warmup)
    for step in range(total if warmup == total else total + 1):
        assert ours(step) == pytest.approx(theirs.get_last_lr()[0], rel=1e-12, abs=1e-20)
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize("warmup", [1, 4])
def test_equal_to_optax(warmup: int) -> None:
    peak, total = 0.5, 20
    fall = optax.linear_schedule(peak, 0.0, total - warmup)
    theirs = {
        "linear": optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), fall], [warmup]),
        "cosine": optax.warmup_cosine_decay_schedule(0.0, peak, warmup, total),
        "constant": optax.warmup_constant_schedule(0.0, peak, warmup),
    }
    for name in theirs:
        ours = schedule(name, peak=peak, total=total, warmup=warmup)
        got = np.array([ours(step) for step in range(total + 2)])
        want = np.array([theirs[name](jnp.int32(step)) for step in range(total + 2)])
        np.testing.assert_allclose(got, want, atol=1e-6 * peak, err_msg=name)


@pytest.mark.parametrize(("total", "share"), [(20, 0.25), (40, 0.3), (101, 0.5), (7, 0.4)])
def test_one_cycle_is_that_of_torch(total: int, share: float) -> None:
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    # Ours peaks in a whole step, `rise`: torch peaks in step share * total - 1.
    rise = warmup_steps(share, total)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 3e-4, total_steps=total, pct_start=(rise + 1) / total, cycle_momentum=False
    )
    ours = schedule("one_cycle", peak=3e-4, total=total, warmup=share)
    for step in range(total):
        assert ours(step) == pytest.approx(theirs.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        if step < total - 1:
            theirs.step()


@pytest.mark.parametrize(("total", "share"), [(20, 0.1), (101, 0.1), (640, 0.2)])
def test_slanted_triangular_is_that_of_the_paper(total: int, share: float) -> None:
    cut, ratio = warmup_steps(share, total), 32  # equation 3 of Howard & Ruder 2018
    ours = schedule("slanted_triangular", peak=0.01, total=total, warmup=share)
    for t in range(total):
        p = t / cut if t < cut else 1 - (t - cut) / (cut * (total / cut - 1))
        assert ours(t) == pytest.approx(0.01 * (1 + p * (ratio - 1)) / ratio, rel=1e-9)


def test_each_schedule_has_a_warm_up_of_its_own() -> None:
    for name in SCHEDULES:
        own = 0.3 if name == "one_cycle" else 0.1
        with_none, given = schedule(name, peak=1.0, total=200), schedule(name, peak=1.0, total=200, warmup=own)
        assert [with_none(step) for step in range(200)] == [given(step) for step in range(200)]


@given(
    st.sampled_from(SCHEDULES),
    st.integers(1, 500),
    st.one_of(st.integers(0, 500), st.floats(0, 1, exclude_max=True)),
    st.floats(1e-8, 10),
)
def test_rises_to_the_peak_then_never_rises(name: str, total: int, warmup: float, peak: float) -> None:
    assume(warmup <= total)
    rates = [schedule(name, peak=peak, total=total, warmup=warmup)(step) for step in range(total)]
    rise = warmup_steps(warmup, total)
    assert all(isinstance(rate, float) and 0 <= rate <= peak for rate in rates)
    assert rates[:rise] == sorted(rates[:rise])
    assert rates[rise:] == sorted(rates[rise:], reverse=True)
    if rise < total:
        assert rates[rise] == peak


def test_a_fraction_is_rounded_up_as_transformers_does() -> None:
    assert warmup_steps(0.1, 101) == 11
    assert warmup_steps(0.0, 101) == 0
    assert warmup_steps(1, 101) == 1
    assert warmup_steps(10.0, 101) == 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "cosin"}, "unknown schedule 'cosin'; did you mean 'cosine'"),
        ({"peak": 0.0}, "learning rate must be a positive number, not 0.0"),
        ({"peak": float("nan")}, "must be a positive number, not nan"),
        ({"total": 0}, "at least one step, not 0"),
        ({"warmup": 11}, "warm-up must be a whole number of the 10 steps or a fraction below 1, not 11"),
        ({"warmup": 2.5}, "not 2.5"),
        ({"warmup": -1}, "not -1"),
        ({"warmup": float("nan")}, "not nan"),
    ],
)
def test_bad_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        schedule(**{"name": "linear", "peak": 1.0, "total": 10, "warmup": 0} | arguments)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_run_of_one_step_trains(name: str) -> None:
    assert schedule(name, peak=0.5, total=1, warmup=0.1)(0) == 0.5
