"""A mesh as text: `data=4,fsdp=2`, or `auto`. Read and checked here, without jax.

data     splits the batch; each device has all parameters
fsdp     splits the batch, and what is stored: parameters, moments, frozen leaves (Rajbhandari et al. 2020, ZeRO)
tensor   splits the matrix products inside a layer (Shoeybi et al. 2019, Megatron-LM)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import product

from tl_jax.errors import InputError, did_you_mean

AXES = ("data", "fsdp", "tensor")
AUTO = "auto"
_FORM = "write axis=devices, as in data=4,fsdp=2, or auto"


@dataclass(frozen=True)
class Axes:
    """How many devices lie along each axis. `str()` is the canonical text: in this order, without axes of one."""

    data: int = 1
    fsdp: int = 1
    tensor: int = 1

    @property
    def size(self) -> int:
        """Devices in all."""
        return self.data * self.fsdp * self.tensor

    @property
    def parts(self) -> int:
        """Into how many parts a batch is split."""
        return self.data * self.fsdp

    def __str__(self) -> str:
        return ",".join(f"{name}={size}" for name, size in asdict(self).items() if size > 1) or "data=1"


def read(text: str) -> Axes | None:
    """The axes that `text` names, None for `auto`; raises `InputError` for what is no mesh."""
    if text.strip() == AUTO:
        return None
    sizes: dict[str, int] = {}
    for part in text.split(","):
        name, equals, size = (word.strip() for word in part.partition("="))
        if not equals:
            raise InputError(f"--mesh {text!r} is not a mesh: {_FORM}")
        if name not in AXES:
            raise InputError(f"--mesh {text!r} has the unknown axis {name!r}{did_you_mean(name, AXES)}")
        if name in sizes:
            raise InputError(f"--mesh {text!r} gives the axis {name!r} twice")
        if not (size.isascii() and size.isdigit() and int(size) > 0):
            raise InputError(f"--mesh {text!r}: {size!r} is not a number of devices from 1 up; {_FORM}")
        sizes[name] = int(size)
    return Axes(**sizes)


def fitting(text: str, *, devices: int, rows: int, parts: int = 1, whole: bool = False) -> Axes:
    """The axes of `text`, which fit: they divide the devices there are and the rows of a (micro-)batch.

    `auto` has all devices on `data`, or as many as divide the rows. `parts` are the micro-batches of a batch; `whole`
    allows no device to be left out. Raises `InputError` saying which does not divide, with the nearest that do.
    """

    def fits(axes: Axes) -> bool:
        known = axes.size == devices if whole else devices % axes.size == 0
        return known and rows % axes.parts == 0

    axes = read(text)
    if axes is None:
        axes = Axes(data=devices if whole else math.gcd(devices, rows))
    if devices % axes.size or (whole and axes.size != devices):
        there = "1 device is" if devices == 1 else f"{devices} devices are"
        rule = "all processes' devices must be in it" if whole else f"{axes.size} does not divide {devices}"
        raise InputError(
            f"--mesh {axes} needs {axes.size} devices, and {there} there: {rule}{_nearest(axes, fits, devices)}"
        )
    if rows % axes.parts:
        down, up = (n // axes.parts * axes.parts * parts for n in (rows, rows + axes.parts - 1))
        sizes = f"{down} or {up}" if down else str(up)
        of = f"{rows} rows" if parts == 1 else f"{rows} rows ({rows * parts} in {parts} micro-batches)"
        raise InputError(
            f"--mesh {axes} splits a batch into {axes.parts} parts, which does not divide its {of}"
            f"{_nearest(axes, fits, devices)}; the nearest batch size is {sizes}"
        )
    return axes


def _nearest(axes: Axes, fits: Callable[[Axes], bool], devices: int) -> str:
    """The tail of a message: up to two meshes of the same axes that fit."""
    wanted = {name: size for name, size in asdict(axes).items() if size > 1} or {"data": 1}
    divisors = [n for n in range(1, devices + 1) if devices % n == 0]
    near = [Axes(**dict(zip(wanted, sizes, strict=True))) for sizes in product(divisors, repeat=len(wanted))]

    def distance(other: Axes) -> tuple[float, int]:
        return sum(abs(math.log(asdict(other)[name] / size)) for name, size in wanted.items()), -other.size

    close = sorted(filter(fits, near), key=distance)[:2]
    return f"; the nearest that fits is {' or '.join(map(str, close))}" if close else ""
