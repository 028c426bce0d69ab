from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tl_jax.errors import InputError
from tl_jax.parallel.axes import Axes, fitting, read

sizes = st.integers(1, 12)


@pytest.mark.parametrize(
    ("text", "axes", "canonical"),
    [
        ("data=4,fsdp=2", Axes(4, 2), "data=4,fsdp=2"),
        (" tensor = 2 , data=4", Axes(4, 1, 2), "data=4,tensor=2"),
        ("fsdp=8,data=1", Axes(1, 8), "fsdp=8"),
        ("tensor=1", Axes(), "data=1"),
        ("auto", None, None),
    ],
)
def test_what_is_a_mesh(text: str, axes: Axes | None, canonical: str | None) -> None:
    assert read(text) == axes
    assert axes is None or str(axes) == canonical


@given(st.builds(Axes, sizes, sizes, sizes))
def test_the_canonical_text_is_read_back(axes: Axes) -> None:
    assert read(str(axes)) == axes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"'' is not a mesh: write axis=devices, as in data=4,fsdp=2, or auto"),
        ("8", r"'8' is not a mesh"),
        ("data:4", r"'data:4' is not a mesh"),
        ("data=4,", r"'data=4,' is not a mesh"),
        ("auto,data=2", r"'auto,data=2' is not a mesh"),
        ("model=2", r"unknown axis 'model'; choose from data, fsdp, tensor"),
        ("tensors=2", r"unknown axis 'tensors'; did you mean 'tensor'\?"),
        ("data=2,fsdp=2,data=2", r"gives the axis 'data' twice"),
        ("data=", r"'' is not a number of devices from 1 up"),
        ("data=0", r"'0' is not a number"),
        ("data=-2", r"'-2' is not a number"),
        ("data=2.0", r"'2.0' is not a number"),
        ("data=²", r"'²' is not a number"),
    ],
)
def test_what_is_none(text: str, message: str) -> None:
    with pytest.raises(InputError, match=f"--mesh .*{message}"):
        read(text)


def test_auto_takes_the_devices_that_divide_the_rows() -> None:
    assert fitting("auto", devices=8, rows=16) == Axes(data=8)
    assert fitting("auto", devices=8, rows=12) == Axes(data=4)
    assert fitting("auto", devices=6, rows=7) == Axes(data=1)


@pytest.mark.parametrize(
    ("text", "rows", "message"),
    [
        ("data=3", 12, r"needs 3 devices, and 8 devices are there: 3 does not divide 8; .* is data=4 or data=2$"),
        ("data=16", 16, r"16 does not divide 8; the nearest that fits is data=8 or data=4$"),
        ("data=3,fsdp=2", 12, r"6 does not divide 8; the nearest that fits is data=2,fsdp=2 or data=4$"),
        ("data=8", 12, r"8 parts, .* its 12 rows; .* is data=4 or data=2; the nearest batch size is 8 or 16$"),
        ("fsdp=8", 5, r"8 parts, .* its 5 rows; the nearest that fits is data=1; the nearest batch size is 8$"),
        ("tensor=3", 5, r"the nearest that fits is tensor=4 or tensor=2$"),
    ],
)
def test_what_does_not_divide_names_the_nearest(text: str, rows: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fitting(text, devices=8, rows=rows)


def test_micro_batches_are_what_is_divided() -> None:
    assert fitting("data=4", devices=8, rows=4, parts=3) == Axes(data=4)
    with pytest.raises(InputError, match=r"its 6 rows \(18 in 3 micro-batches\);.* batch size is 12 or 24$"):
        fitting("data=4", devices=8, rows=6, parts=3)


def test_several_processes_leave_no_device_out() -> None:
    assert fitting("data=4,fsdp=2", devices=8, rows=8, whole=True) == Axes(4, 2)
    assert fitting("auto", devices=8, rows=8, whole=True) == Axes(8)
    with pytest.raises(InputError, match=r"all processes' devices must be in it; the nearest that fits is data=8$"):
        fitting("data=4", devices=8, rows=8, whole=True)
    with pytest.raises(InputError, match=r"splits a batch into 8 parts, .* its 4 rows; the nearest batch size is 8$"):
        fitting("auto", devices=8, rows=4, whole=True)


@given(st.builds(Axes, sizes, sizes, sizes), st.integers(1, 16), st.integers(1, 64))
def test_what_is_named_as_nearest_fits(axes: Axes, devices: int, rows: int) -> None:
    try:
        found = fitting(str(axes), devices=devices, rows=rows)
    except InputError as error:
        named = str(error).partition("the nearest that fits is ")[2].partition(";")[0]
        assert named
        for text in named.split(" or "):
            near = fitting(text, devices=devices, rows=rows)
            assert near != axes
    else:
        assert found == axes and devices % axes.size == 0 and rows % axes.parts == 0
