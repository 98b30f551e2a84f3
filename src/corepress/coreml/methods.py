"""The table of all ways to compress, with those that learn from samples: recipes and the command line read it."""

from __future__ import annotations

from corepress.coreml import palettize, prune, quantize
from corepress.coreml.method import Method

METHODS: dict[str, Method] = {"prune": prune.METHOD, "palettize": palettize.METHOD, "quantize": quantize.METHOD}
