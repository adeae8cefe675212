"""The losses of :mod:`nst_fast.objective.gaussians` in plain ONNX operators, with their gradients.

Statistics are a Gram G [1, C, C] and a mean m [1, C, 1], with the covariance S = G - m mᵀ. Each loss gives its value
[1] and its gradients dG and dm. From P = dL/dS and q = dL/dm at a fixed S follow dG = P and dm = q - 2 P m.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from nst_fast.objective.gaussians import LEAST_VARIANCE, PRODUCT_SPREAD, RIDGE, SMALLEST, TARGET_SPREAD, schedule
from nst_fast.onnx.graph import rules
from nst_fast.onnx.graph.writer import FLOATS, GraphWriter, Value

Moments = tuple[Value, Value]
Terms = tuple[Value, Value, Value]


def moments_loss(graph: GraphWriter, picture: Moments, style: Moments, channels: int) -> Terms:
    """|m - m_s|² / |m_s|² + |S - S_s|² / |S_s|²: P = 2 (S - S_s) / |S_s|², q = 2 (m - m_s) / |m_s|²."""
    pairs = (picture[1], style[1]), (covariance(graph, picture), covariance(graph, style))
    values, slopes = [], []
    for own, target in pairs:
        difference = graph.op("Sub", own, target)
        energy = _above_zero(graph, rules.squared_sum(graph, target))
        values.append(graph.op("Div", rules.squared_sum(graph, difference), energy))
        slopes.append(graph.op("Div", _times(graph, difference, 2), energy))
    by_mean, by_covariance = slopes
    return graph.op("Add", *values), by_covariance, _by_mean(graph, by_mean, by_covariance, picture[1])


def wasserstein_loss(graph: GraphWriter, picture: Moments, style: Moments, channels: int) -> Terms:
    """(|m - m_s|² + tr S + tr S_s - 2 tr (R S R)^½) / E: P = (I - R (R S R)^-½ R) / E, q = 2 (m - m_s) / E.

    R is the root of S_s, and E the style's mean |f|², the trace of its Gram. Both covariances have the ridge.
    """
    identity, energy = eye(graph, channels), trace(graph, style[0], channels)
    own, target = (covariance(graph, moments) for moments in (picture, style))
    variance = graph.op("Add", trace(graph, target, channels), _times(graph, energy, RIDGE))
    variance = graph.op("Add", _times(graph, variance, RIDGE), graph.number(LEAST_VARIANCE))
    ridge = graph.op("Mul", identity, variance)
    own, target, energy = (
        graph.op("Add", own, ridge),
        graph.op("Add", target, ridge),
        _above_zero(graph, energy, LEAST_VARIANCE),
    )
    size = np.dtype(FLOATS[graph.precision]).itemsize
    root, _ = roots(graph, target, schedule(TARGET_SPREAD, size), channels)
    shared, inverse = roots(graph, _between(graph, root, own), schedule(PRODUCT_SPREAD, size), channels)
    difference = graph.op("Sub", picture[1], style[1])
    both = graph.op("Sub", graph.op("Add", own, target), _times(graph, shared, 2))
    distance = graph.op("Add", rules.squared_sum(graph, difference), trace(graph, both, channels))
    by_covariance = graph.op("Div", graph.op("Sub", identity, _between(graph, root, inverse)), energy)
    by_mean = _by_mean(graph, graph.op("Div", _times(graph, difference, 2), energy), by_covariance, picture[1])
    return graph.op("Div", distance, energy), by_covariance, by_mean


LOSSES: dict[str, Callable[[GraphWriter, Moments, Moments, int], Terms]] = {
    "moments": moments_loss,
    "wasserstein": wasserstein_loss,
}


def roots(graph: GraphWriter, matrix: Value, scales: list[float], channels: int) -> tuple[Value, Value]:
    """A^½ and A^-½, see :func:`nst_fast.objective.gaussians.roots`."""
    identity = eye(graph, channels)
    size = trace(graph, matrix, channels)
    y, z = graph.op("Div", matrix, size), identity
    for scale in scales:
        product = _times(graph, graph.op("MatMul", z, y), 0.5 * scale**3)
        step = graph.op("Sub", _times(graph, identity, 1.5 * scale), product)
        y, z = graph.op("MatMul", y, step), graph.op("MatMul", step, z)
    root = graph.op("Sqrt", size)
    return graph.op("Mul", y, root), graph.op("Div", z, root)


def covariance(graph: GraphWriter, moments: Moments) -> Value:
    gram, mean = moments
    return graph.op("Sub", gram, graph.op("MatMul", mean, graph.op("Transpose", mean, perm=[0, 2, 1])))


def trace(graph: GraphWriter, matrix: Value, channels: int) -> Value:
    """[1]."""
    return rules.inner_product(graph, matrix, eye(graph, channels))


def eye(graph: GraphWriter, channels: int) -> Value:
    """The identity [1, C, C]."""
    return graph.constant(np.eye(channels, dtype=FLOATS[graph.precision])[None])


def _between(graph: GraphWriter, outer: Value, inner: Value) -> Value:
    return graph.op("MatMul", graph.op("MatMul", outer, inner), outer)


def _by_mean(graph: GraphWriter, at_fixed: Value, by_covariance: Value, mean: Value) -> Value:
    """q - 2 P m."""
    return graph.op("Sub", at_fixed, _times(graph, graph.op("MatMul", by_covariance, mean), 2))


def _above_zero(graph: GraphWriter, energy: Value, least: float = SMALLEST) -> Value:
    return graph.op("Add", energy, graph.number(least))


def _times(graph: GraphWriter, value: Value, factor: float) -> Value:
    return graph.op("Mul", value, graph.number(factor))
