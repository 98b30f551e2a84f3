"""Where a program can be cut in two: values through which all goes that was computed with weights that learn.

Between two cuts lies a block, such as a layer of a transformer or a residual block. What the original has there tells a
student more than its outputs alone do: of every block, and with as many numbers as the value has (as in block
reconstruction, Li et al. 2021, arXiv 2102.05426; and FitNets, Romero et al. 2015, arXiv 1412.6550).
"""

from __future__ import annotations

from collections.abc import Collection

from corepress.runtime.plan import Block, reads


def cuts(plan: Block, learning: Collection[str]) -> list[str]:
    """The names of such values, in order: of each block the first one. `learning`: the buffers that learn."""
    found: list[str] = []
    alive: set[str] = set()  # values that hang on a weight that learns, and are read later
    fresh = False  # whether such a weight was read since the last cut
    for step in plan.steps:
        learns = any(name in learning for _, name in step.held)
        if learns or not alive.isdisjoint(reads(step)):
            alive.update(step.outputs)
        alive.difference_update(step.drop)
        fresh |= learns
        if fresh and len(step.outputs) == 1 and alive == {step.outputs[0]}:
            found.append(step.outputs[0])
            fresh = False
    return [name for name in found if name not in plan.output_names]
