"""Methods as text."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tl_jax import methods
from tl_jax.errors import InputError
from tl_jax.methods import (
    bitfit,
    discriminative,
    full,
    gradual_unfreezing,
    last_layers,
    lora,
    lp_ft,
    parse,
    probe,
    scratch,
)

positive = st.floats(1e-6, 1e6)
targets = st.lists(
    st.sampled_from(["query", "attention/out", "layers_[01]", "layers_(0|2)/mlp", r"up\b", "x{1,2}", "a,b"]), min_size=1
)
every = st.one_of(
    st.builds(full, head_lr=st.floats(1e-3, 1e3)),
    st.builds(probe, C=positive),
    st.builds(last_layers, k=st.integers(0, 99)),
    st.builds(discriminative, decay=st.floats(0.01, 1)),
    st.builds(gradual_unfreezing, phases=st.integers(2, 9), decay=st.floats(0.01, 1)),
    st.builds(lp_ft, C=positive),
    st.just(bitfit()),
    st.just(scratch()),
    st.builds(
        lora,
        rank=st.integers(1, 512),
        alpha=st.none() | positive,
        targets=targets.map("|".join),
        rslora=st.booleans(),
    ),
)


@given(every)
def test_the_text_of_a_method_parses_back(method: Any) -> None:
    again = parse(str(method))
    assert again == method
    assert hash(again) == hash(method)
    assert str(again) == str(method)
    assert parse(method) is method


@given(st.text() | st.builds("{}:{}".format, st.sampled_from([*methods.METHODS]), st.text("rank=,:1k.|")))
def test_a_text_is_a_method_or_an_input_error(text: str) -> None:
    try:
        method = parse(text)
    except InputError:
        return
    assert method.name in methods.METHODS


@pytest.mark.parametrize(
    ("text", "method"),
    [
        ("full", full()),
        ("full:head_lr=1", full(head_lr=1)),
        ("probe", probe(C=1.0)),
        ("probe:C=1e-2", probe(C=0.01)),
        ("last_layers:k=2", last_layers(2)),
        ("discriminative:decay=0.8", discriminative(0.8)),
        ("gradual_unfreezing:phases=3", gradual_unfreezing(phases=3, decay=1.0)),
        ("lp_ft:C=10", lp_ft(C=10.0)),
        ("lora", lora(rank=8, alpha=None, targets="query|value", rslora=False)),
        ("lora:rank=4,targets=query,rslora=true", lora(rank=4, targets="query", rslora=True)),
        (" lora : rank = 4 , alpha = 16 ", lora(rank=4, alpha=16)),
        ("lora:targets=layers_[0-9]{1,2}/query,rank=2", lora(rank=2, targets="layers_[0-9]{1,2}/query")),
    ],
)
def test_texts(text: str, method: Any) -> None:
    assert parse(text) == method


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lorra:rank=8", "unknown method 'lorra'; did you mean 'lora'?"),
        ("", "unknown method ''; choose from probe, full, last_layers, discriminative, gradual_unfreezing, lp_ft"),
        ("lora:rnk=8", "lora has no parameter 'rnk'; did you mean 'rank'?"),
        ("lora:target_modules=query", "lora has no parameter 'target_modules'; did you mean 'targets'?"),
        ("full:head_lr=0", "full: head_lr must be above 0, not 0.0"),
        ("full:k=2", "full has no parameter 'k'; choose from head_lr"),
        ("bitfit:k=2", "bitfit has no parameter 'k'; it has none"),
        ("lora:rank=eight", "lora: rank must be a whole number, not 'eight'"),
        ("lora:rank=8.0", "lora: rank must be a whole number, not '8.0'"),
        ("lora:rslora=1", "lora: rslora must be true or false, not '1'"),
        ("lora:alpha=nan", "lora: alpha must be a number, not nan"),
        ("lora:rank=8,rank=4", "lora: rank is given twice"),
        ("lora:rank=0", "lora: rank must be 1 or more, not 0"),
        ("lora:alpha=-1", "lora: alpha must be positive, not -1.0"),
        ("last_layers", "last_layers needs k, a whole number: last_layers:k=…"),
        ("last_layers:2", "last_layers: '2' is not of the form parameter=value; write last_layers:k=2"),
        ("lora:targets=query|", "lora: targets 'query|' has an empty alternative; 'query|value' names two"),
        ("lora:targets=(query", "lora: the target '(query' is not a regular expression"),
    ],
)
def test_mistakes(text: str, message: str) -> None:
    with pytest.raises(InputError) as said:
        parse(text)
    assert str(said.value).startswith(message)


def test_what_is_no_method_at_all() -> None:
    with pytest.raises(InputError, match="a text such as 'lora:rank=8' or a method object, not 8"):
        parse(8)  # type: ignore[arg-type]


def test_the_registry_names_every_method_by_its_own_name() -> None:
    assert list(methods.available()) == list(methods.METHODS)
    for name, about in methods.available().items():
        assert getattr(methods, name).name == name
        assert about and "\n" not in about


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="no attribute 'dora'"):
        _ = methods.dora
    assert "lora" in dir(methods)


def test_the_list_of_methods_needs_no_jax() -> None:
    code = "import sys, tl_jax.methods as m; m.available(); print(*(n for n in ('jax', 'flax') if n in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
