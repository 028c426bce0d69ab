"""Mergeable metrics: sums per batch, added in float64 on the host, equal to scikit-learn's figures."""

from tl_jax.metrics.classification import Classification
from tl_jax.metrics.language import Language
from tl_jax.metrics.means import Mean
from tl_jax.metrics.mergeable import Metrics

__all__ = ["Classification", "Language", "Mean", "Metrics"]
