"""Caches: what of the network is not computed again in every step of sampling."""

from zoo.caches import first_block, fora, none, teacache  # noqa: F401
