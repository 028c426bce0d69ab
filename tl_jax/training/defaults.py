"""What a run uses where the user says nothing, by method and size of the model."""

from __future__ import annotations

import math

_SMALL = 50_000_000  # parameters: below, models bear (and need) higher rates

# Peak learning rates of AdamW at batch 32: (small models, others).
RATES = {
    "full": (2e-4, 3e-5),
    "last_layers": (5e-4, 1e-4),
    "discriminative": (3e-4, 5e-5),
    "gradual_unfreezing": (3e-4, 5e-5),
    "lp_ft": (1e-4, 2e-5),
    "bitfit": (2e-3, 5e-4),
    "lora": (5e-3, 3e-4),
    "scratch": (5e-4, 1e-4),
}
_OTHER = (2e-4, 3e-5)


# The budget: epochs, as is usual; the steps that small data is given; the most epochs that these may be.
EPOCHS, STEPS, MOST_EPOCHS = 3.0, 200, 30.0


def epochs(steps_per_epoch: int) -> float:
    """Passes over the data: `EPOCHS`; on small data as many as make `STEPS` steps, but no more than `MOST_EPOCHS`."""
    return max(EPOCHS, min(MOST_EPOCHS, STEPS / steps_per_epoch))


def epochs_between(train: int, validation: int) -> int:
    """Passes over `train` examples from one evaluation on `validation` examples to the next.

    One, as is usual; where few examples train, as many as make the evaluation cost no more than them: a forward pass
    is about a third of a step.
    """
    return max(1, math.ceil(validation / (3 * train)))


def default_schedule(method: str) -> str:
    """Linear, but for the method that came with a schedule of its own."""
    return "slanted_triangular" if method == "gradual_unfreezing" else "linear"


def peak_rate(method: str, parameters: int, optimizer: str = "adamw") -> float:
    """The peak learning rate of a method on a model of that many parameters."""
    small, other = RATES.get(method, _OTHER)
    return (small if parameters < _SMALL else other) * rate_scale(optimizer)


def rate_scale(optimizer: str) -> float:
    """What an optimiser's learning rates are to those of AdamW.

    Lion wants a tenth of Adam's (Chen et al. 2023); SGD, whose updates are not normalised, a hundred times as much.
    """
    return {"lion": 0.1, "sgd": 100.0}.get(optimizer, 1.0)
