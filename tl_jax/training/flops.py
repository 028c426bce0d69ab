"""What a function costs, counted on its jaxpr: a loop costs its body as often as it runs.

XLA's `cost_analysis` counts the body of a loop once, whatever its length. This walk multiplies, and it needs neither
values nor a compilation, so a plan prints its cost before anything runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import Jaxpr, JaxprEqn, jaxprs_in_params
from jax.interpreters import partial_eval

from tl_jax.errors import InputError

_CALLS = {"jit", "closed_call", "core_call", "remat2", "checkpoint", "custom_jvp_call", "custom_vjp_call"}

# Moves, renames or converts what is there.
_MOVES = {
    *("broadcast_in_dim", "reshape", "transpose", "squeeze", "expand_dims", "rev", "copy", "copy_p", "device_put"),
    *("slice", "dynamic_slice", "dynamic_update_slice", "concatenate", "split", "pad", "gather", "scatter", "iota"),
    *("convert_element_type", "bitcast_convert_type", "reduce_precision", "stop_gradient", "optimization_barrier"),
    *("sharding_constraint", "mesh_cast", "pvary", "random_wrap", "random_unwrap", "name", "empty", "create_token"),
}
_REDUCTIONS = {
    *("reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or", "reduce_xor", "reduce"),
    *("argmax", "argmin", "cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"),
}
_SCATTERS = {"scatter-add", "scatter-sub", "scatter-mul", "scatter-min", "scatter-max"}
_WINDOWS = {"reduce_window", "reduce_window_sum", "reduce_window_max", "reduce_window_min", "select_and_gather_add"}
_UNKNOWN = {
    *("cholesky", "eigh", "eig", "svd", "lu", "qr", "geqrf", "geqp3", "householder_product", "schur", "tridiagonal"),
    *("triangular_solve", "tridiagonal_solve", "custom_linear_solve", "fft", "ragged_dot_general", "ffi_call"),
    *("pure_callback", "io_callback"),
}


def flops(fn: Callable[..., Any], *args: Any, trips: int | None = None, **kwargs: Any) -> int:
    """Floating-point (and integer) operations of `fn(*args, **kwargs)`; arguments may be `jax.ShapeDtypeStruct`s.

    Counted after dead code is dropped: a matrix product 2·m·n·k, a convolution 2 per product of a kernel element and an
    input element that exists (no padding, no holes of a dilation), a reduction or scatter 1 per element that goes in,
    moving and converting data nothing, all else 1 per element that comes out: `exp` as much as `add`. A scan costs its
    length, a `cond` its dearest branch, and each `while_loop` runs `trips` times; without `trips` it raises
    `InputError`, as do linear solvers, FFTs and kernels whose inside is not a jaxpr.
    """
    closed = jax.make_jaxpr(fn)(*args, **kwargs)
    live, _ = partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars), True)
    return _total(live, trips)


def _total(jaxpr: Jaxpr, trips: int | None) -> int:
    return sum(_cost(eqn, trips) for eqn in jaxpr.eqns)


def _cost(eqn: JaxprEqn, trips: int | None) -> int:
    name, params = eqn.primitive.name, eqn.params
    if name in _MOVES:
        return 0
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        left = _shape(eqn.invars[0])
        return 2 * _sizes(eqn.outvars) * math.prod(left[i] for i in contracted)
    if name == "conv_general_dilated":
        return _convolution(eqn)
    if name in _REDUCTIONS:
        return _sizes(eqn.invars)
    if name in _SCATTERS:
        return _sizes(eqn.invars[2:])  # operand, indices, updates
    if name in _WINDOWS:
        return _sizes(eqn.outvars) * math.prod(params["window_dimensions"])
    if name == "select_and_scatter_add":
        return _sizes(eqn.invars[:1]) * math.prod(params["window_dimensions"])
    if name == "scan":
        return params["length"] * _total(params["jaxpr"].jaxpr, trips)
    if name == "cond":
        return max(_total(branch.jaxpr, trips) for branch in params["branches"])
    if name == "while":
        if trips is None:
            raise InputError("how often a while_loop runs is not in its jaxpr: give flops(…, trips=)")
        return trips * sum(_total(params[part].jaxpr, trips) for part in ("cond_jaxpr", "body_jaxpr"))
    inner = list(jaxprs_in_params(params))
    if name in _CALLS:
        return sum(_total(jaxpr, trips) for jaxpr in inner)
    if inner or name in _UNKNOWN:
        raise InputError(f"cannot count the operations of {name!r}")
    return _sizes(eqn.outvars)


def _sizes(variables: Any) -> int:
    return sum(math.prod(_shape(v)) for v in variables)


def _shape(variable: Any) -> tuple[int, ...]:
    return variable.aval.shape


def _convolution(eqn: JaxprEqn) -> int:
    params, spec = eqn.params, eqn.params["dimension_numbers"]
    inputs, kernel, out = map(_shape, (*eqn.invars, *eqn.outvars))
    pairs = 1
    for d, (pad, _) in enumerate(params["padding"]):
        size, holes = inputs[spec.lhs_spec[2 + d]], params["lhs_dilation"][d]
        stride, spread = params["window_strides"][d], params["rhs_dilation"][d]
        places = (
            o * stride + k * spread - pad
            for o in range(out[spec.out_spec[2 + d]])
            for k in range(kernel[spec.rhs_spec[2 + d]])
        )
        pairs *= sum(1 for at in places if at % holes == 0 and 0 <= at // holes < size)
    # The kernel's input features are those of one group; batch groups divide the batch the same way.
    features = kernel[spec.rhs_spec[1]] * out[spec.out_spec[1]] * out[spec.out_spec[0]]
    return 2 * pairs * features
