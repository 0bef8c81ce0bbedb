"""Everything is computed in every step."""

from __future__ import annotations

from vidiff.caching import Cache
from vidiff.registry import CACHES


@CACHES.register("none")
class NoCache(Cache):
    """Nothing is kept."""
