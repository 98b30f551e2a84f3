"""What a recipe is: steps in order, each with the configuration that says which weight gets what."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

from corepress.coreml.config import OptimizationConfig
from corepress.neural_network.config import NetworkConfig
from corepress.recipe.activations import Activations
from corepress.refining.options import Refining

Kind = Literal["prune", "palettize", "quantize", "activations", "refine", "rotate", "decompress"]
KINDS: tuple[Kind, ...] = get_args(Kind)
# The levels of a configuration, and what a recipe calls them.
LEVELS = {
    "op_type_configs": "ops", "layer_type_configs": "ops", "op_name_configs": "names", "name_configs": "names",
}  # fmt: skip
AnyConfig = OptimizationConfig | NetworkConfig


@dataclass(frozen=True)
class Step:
    """One step of a recipe.

    Args:
        kind: "prune", "palettize", "quantize", "activations", "refine", "rotate" or "decompress".
        config: Which weight, or operation, gets what; None for "refine", "rotate" and "decompress".
        joint: Whether weights that are compressed already are compressed further, as they are by a step that may meet
            the weights of one before it.
        method: The one that learns from samples, if any.
        activations: For "activations" what is said beside the configuration, else None.
        function: Of a model with several functions, the one that the samples are for; None for that of `recipe.run`.
        refining: For "refine" how it learns, else None.
        augment: How many samples are made besides, to learn from.
        seed: For "rotate" which rotation it is.

    Examples:
        >>> from corepress import recipe
        >>> step = recipe.parse({"steps": [{"palettize": {"nbits": 2}, "method": "lut-gptq"}]}).steps[0]
        >>> step.config.global_config.nbits, step.method
        (2, 'lut-gptq')
    """

    kind: Kind
    config: AnyConfig | None
    joint: bool
    method: str | None = None
    activations: Activations | None = None
    function: str | None = None
    refining: Refining | None = None
    augment: int = 0
    seed: int = 0

    @property
    def learns_by(self) -> str:
        """The words by which it learns from samples; empty for a step that does not."""
        if self.activations is not None or self.refining is not None:
            return f"the step {self.kind}"
        return f"method: {self.method}" if self.method else ""


@dataclass(frozen=True)
class Recipe:
    """Steps in the order in which they run, and the deployment target that the model shall have, if any.

    Args:
        target: Such as "iOS18", or None.
        steps: The steps.
        networks: Whether they are for neural networks, the models of iOS 15 and older, and not for ML programs.

    Examples:
        >>> from corepress import recipe
        >>> recipe.parse({"steps": ["decompress"]}).steps[0].kind
        'decompress'
    """

    target: str | None
    steps: tuple[Step, ...]
    networks: bool = False

    @property
    def ends_refining(self) -> bool:
        """Whether the last step is "refine"."""
        return bool(self.steps) and self.steps[-1].refining is not None

    @property
    def without_last(self) -> Recipe:
        """The same but for the last step."""
        return replace(self, steps=self.steps[:-1])

    @property
    def function(self) -> str | None:
        """The function that the first step that learns from samples names; None for the default one."""
        return next((step.function for step in self.steps if step.learns_by), None)
