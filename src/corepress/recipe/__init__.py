"""Recipes: the steps that make a model small, as a YAML file that people read.

    target: iOS18
    steps:
      - prune: {target_sparsity: 0.5}
        ops: {conv: {n_m_ratio: [2, 4]}}
        names: {"*embed*": skip}
      - palettize: {nbits: 4, granularity: per_grouped_channel, group_size: 16}
        names: {"head*": {nbits: 8, granularity: per_tensor}}
        method: lut-gptq
      - activations: {mode: linear}
        exceptions: [add_4]
      - refine: {time: 10m}

The steps run in order; each is a verb with the arguments of its configuration class. `ops` (by operation type) and
`names` (by name or pattern) inherit the step's arguments and change some; `skip` or null leaves weights as they are.
The step `activations` has further keys, of which `activations.py` says what they mean; those of `refine` are in
`corepress.refining.options`.

Recipes for neural networks, the older kind, have the verbs and arguments that `_NETWORKS` of `reading.py` says.

`steps.py` and `activations.py` say what a recipe is, `reading.py` makes it of YAML, `running.py` does what it says. One
more setting of a step: the field of its configuration class, and nothing here; of activations a field in that file. One
more verb for weights: `METHODS` of `corepress.coreml.methods`, and `Kind` in `steps.py`.
"""

from corepress.recipe.reading import load, parse
from corepress.recipe.running import run
from corepress.recipe.steps import Recipe, Step

__all__ = ["Recipe", "Step", "load", "parse", "run"]
