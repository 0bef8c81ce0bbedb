"""Predictions: what the network is asked for, as a pair (p, q) of y = p x0 + q noise."""

from zoo.objectives.predictions import edm, eps, score, v, velocity, x0  # noqa: F401
