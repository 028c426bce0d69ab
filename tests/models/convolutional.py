"""A convolutional net against its reference in torch: stages, gradient and statistics, in evaluation and in training.

For any family with batch norms: a reference, its `places`, and a model and names of ours.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tests.parity import assert_parity, module_scales
from tl_jax.model import Model
from tl_jax.models.names import NameMap
from tl_jax.rules import map_paths, paths

COUNT = ".num_batches_tracked"
KINK = 3e-6  # how near to a kink of an activation the reference may come; rounding is a tenth of that
Weights = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Reference:
    """A net of torch; `places` gives for each stage of ours the module whose output is what the stage writes."""

    net: Any
    places: Callable[[Any], Mapping[str, Any]]

    def run(self, images: np.ndarray, weights: Weights, *, train: bool, double: bool) -> Ran:
        """One pass, and the gradient of a loss that weighs the last feature map and the last output, of a copy."""
        import torch

        dtype = torch.float64 if double else torch.float32
        net = copy.deepcopy(self.net).train(train).to(dtype)
        outputs: dict[str, Any] = {}
        kinks = [math.inf]
        for name, module in self.places(net).items():
            module.register_forward_hook(lambda _, __, out, name=name: outputs.__setitem__(name, out))
        for module in net.modules():
            if isinstance(module, torch.nn.ReLU | torch.nn.LeakyReLU):
                module.register_forward_pre_hook(lambda _, given: kinks.append(float(given[0].detach().abs().min())))
            elif isinstance(module, torch.nn.MaxPool2d):
                module.register_forward_pre_hook(lambda pool, given: kinks.append(_lead(pool, given[0].detach())))
        # In torch's own layout: in ours its norms, of a thousand values a channel, are five times as far from float64.
        net(torch.tensor(images, dtype=dtype).permute(0, 3, 1, 2).contiguous())
        top, end = (outputs[name] for name in _ends(outputs))
        theirs = np.moveaxis(weights[0], 3, 1), weights[1].reshape(len(weights[1]), -1, *[1] * (end.ndim - 2))
        sums = [(out * torch.tensor(w.copy(), dtype=dtype)).sum() for out, w in zip((top, end), theirs, strict=True)]
        (sums[0] + sums[1]).backward()
        return Ran(
            {name: _ours(name, out.detach().numpy()) for name, out in outputs.items()},
            {name: leaf.grad.numpy() for name, leaf in net.named_parameters()},
            {name: leaf.numpy() for name, leaf in net.named_buffers() if not name.endswith(COUNT)},
            min(kinks),
        )


@dataclass(frozen=True)
class Ran:
    """What each stage wrote, in our layout; by foreign name gradients and, after the forward pass, statistics."""

    written: dict[str, np.ndarray]
    gradient: dict[str, np.ndarray]
    statistics: dict[str, np.ndarray]
    nearest: float  # to a kink of an activation


def tensors(net: Any) -> dict[str, np.ndarray]:
    """Every tensor of a net's state dict but the counts of batches."""
    return {name: leaf.numpy().copy() for name, leaf in net.state_dict().items() if not name.endswith(COUNT)}


def mapped(names: NameMap, found: Mapping[str, np.ndarray], shapes: Any) -> Any:
    """Foreign tensors in a tree of ours; each has a place, and each place a tensor of its shape."""
    layouts: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "copy": lambda a: a,
        "transpose": lambda a: a.T,
        "conv": lambda a: a.transpose(2, 3, 1, 0),
    }
    by_path = {}
    for name, value in found.items():
        known = names.to_canonical(name)
        assert known is not None, name
        by_path[known[0]] = layouts[known[1]](value)
    assert len(by_path) == len(found)
    assert {p: a.shape for p, a in by_path.items()} == {p: leaf.shape for p, leaf in paths(shapes).items()}
    return map_paths(lambda path, _: by_path[path], shapes)


def check_parity(
    reference: Reference,
    model: Model,
    names: NameMap,
    draw: Callable[[], np.ndarray],
    rng: np.random.Generator,
    *,
    train: bool,
) -> None:
    """Law 2 on images that `draw` gives, the chain cut at every stage."""
    images, weights, single, exact = _given(reference, draw, rng, train)
    shapes = model.shapes({"image": jax.ShapeDtypeStruct(images.shape, jnp.float32)})
    variables = mapped(names, tensors(reference.net), shapes)
    mode = {"train_from": model.names[0]} if train else {}

    def loss(params: Any) -> Any:
        state, statistics, written = {"image": images}, variables["batch_stats"], {}
        for stage, after in zip(model.stages, (*model.names[1:], None), strict=True):
            known = {"params": params, "batch_stats": statistics}
            state, changed = model.apply(known, state, start=stage.name, stop=after, mutable=("batch_stats",), **mode)
            statistics = changed["batch_stats"]
            written[stage.name] = state[stage.writes[0]]
        top, end = (written[name] for name in _ends(written))
        return (top * jnp.asarray(weights[0], jnp.float32)).sum() + (
            end * jnp.asarray(weights[1], jnp.float32)
        ).sum(), (written, statistics)

    # As users compile it: without XLA's optimiser a sum over pixels adds one after the other, and loses by that alone
    # what law 2 allows.
    compiled = jax.jit(jax.grad(loss, has_aux=True), compiler_options={"xla_backend_optimization_level": 3})
    gradient, (written, statistics) = compiled(variables["params"])
    assert written.keys() == single.written.keys()
    for name in written:
        assert_parity(written[name], single.written[name], exact.written[name], name)
    kept = {"batch_stats": shapes["batch_stats"]}
    mine, before = paths({"batch_stats": statistics}), paths({"batch_stats": variables["batch_stats"]})
    theirs, best = (paths(mapped(names, ran.statistics, kept)) for ran in (single, exact))
    for path in best:
        assert_parity(mine[path], theirs[path], best[path], path)
        assert np.array_equal(mine[path], before[path]) != train, path
    mine = paths(gradient)
    theirs, best = (paths(mapped(names, ran.gradient, shapes["params"])) for ran in (single, exact))
    scales = module_scales(best)
    for path in best:
        assert_parity(mine[path], theirs[path], best[path], f"gradient of {path}", scales[path])


def _given(
    reference: Reference, draw: Callable[[], np.ndarray], rng: np.random.Generator, train: bool
) -> tuple[np.ndarray, Weights, Ran, Ran]:
    """Images, weights of a loss, and what float32 and float64 of the reference make of them.

    The gradient of ReLU jumps at zero, and that of a largest where two are equal: images that bring it so near that
    rounding decides are drawn again.
    """
    plain = np.zeros((1, 1, 1, 1)), np.zeros((1, 1))
    written = reference.run(draw(), plain, train=train, double=False).written
    top, end = (written[name].shape for name in _ends(written))
    while True:
        images, weights = draw(), (rng.normal(size=top), rng.normal(size=end))
        exact = reference.run(images, weights, train=train, double=True)
        if exact.nearest > KINK:
            return images, weights, reference.run(images, weights, train=train, double=False), exact


def _lead(pool: Any, x: Any) -> float:
    """The least lead of a window's largest value over its second; equal ones (zeros, after ReLU) are no kink."""
    import torch

    framed = torch.nn.functional.pad(x, (pool.padding,) * 4, value=-math.inf)
    windows = torch.nn.functional.unfold(framed, pool.kernel_size, stride=pool.stride)
    largest = windows.view(*x.shape[:2], pool.kernel_size**2, -1).topk(2, dim=2).values
    leads = largest[:, :, 0] - largest[:, :, 1]
    return float(leads[leads > 0].min())


def _ends(stages: Mapping[str, Any]) -> tuple[str, str]:
    """The last stage that writes a feature map, and the last of all."""
    return [name for name in stages if name not in ("pooler", "head")][-1], list(stages)[-1]


def _ours(name: str, value: np.ndarray) -> np.ndarray:
    return np.moveaxis(value, 1, 3) if name not in ("pooler", "head") else value.reshape(len(value), -1)
