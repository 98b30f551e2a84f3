"""The options of quantizing activations (W8A8), and the step that does it beside the weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from corepress.cli.check import Check
from corepress.cli.declare import Option
from corepress.cli.options import Limits, Running

if TYPE_CHECKING:
    from corepress.cli.again import Beside
    from corepress.coreml import OptimizationConfig
    from corepress.coreml.activations.exceptions import Found

Step = Callable[[Any, Any, Any], Any]


@dataclass(frozen=True)
class Activations:
    """Whether activations are quantized, too, and how."""

    activations: Annotated[
        bool,
        Option(
            "--activations",
            help="Quantize activations to 8 bits, too (W8A8), signed as --dtype is; needs --data. With --min-cosine or "
            "--min-snr the fewest operations that have to stay in floating point are found, and left.",
        ),
    ] = False
    activation_mode: Annotated[
        Literal["linear_symmetric", "linear"] | None,
        Option(help="The --mode of activations. [default: as --mode; with a goal linear]"),
    ] = None
    observer: Annotated[
        Literal["min_max", "moving_average", "percentile", "mse", "output", "auto"] | None,
        Option(
            help="With --activations: how the range of an activation is found; output: of the least error in what the "
            "model answers. [default: min_max; with a goal auto, whichever of min_max and output is nearer]"
        ),
    ] = None
    bias_correction: Annotated[
        bool | None,
        Option(
            "--bias-correction/--no-bias-correction",
            help="With --activations: take back by biases what rounding shifts. [default: no; with a goal if it helps]",
        ),
    ] = None
    equalize: Annotated[
        bool | None,
        Option(
            "--equalize/--no-equalize",
            help="With --activations: move factors of channels between the weights first, so that each channel makes "
            "use of 8 bits; the answers stay the same. [default: no; with a goal if it helps]",
        ),
    ] = None

    def beside(
        self,
        weights: Step,
        config: OptimizationConfig,
        check: Check,
        limits: Limits,
        running: Running,
        tell: Callable[[Found], None],
    ) -> Step:
        """The step that quantizes activations by the configuration of the weights, which `weights` compresses.

        `check`: its goal, if there is one. `tell`: is given the operations that stay in floating point.
        """
        goal: dict[str, Any] = {**check.goal}

        def both(source: Any, progress: Any, samples: list[Any]) -> Any:
            from corepress.coreml.activations.quantize import quantized

            options = {
                "target": limits.target, "strict": limits.strict, "workers": running.workers, "progress": progress,
            }  # fmt: skip
            how = self._config(config, source, goal)
            if not goal:
                model, _ = quantized(source, how, samples, **self._plainly(), **options)
                return weights(model, progress, samples)
            # What the weights lose counts as well, and their biases are corrected, too.
            model, found = quantized(
                source, how, samples, observer=self.observer or "auto", exceptions="auto",
                bias_correction=self.bias_correction, equalize="auto" if self.equalize is None else self.equalize,
                compress=lambda model: weights(model, progress, samples), **goal, **options,
            )  # fmt: skip
            if found is not None:
                tell(found)
            return model

        return both

    def again(self, config: OptimizationConfig, source: Any, check: Check, told: Sequence[Found]) -> Beside:
        """The step of a recipe that does the same, with the exceptions that were `told`."""
        from corepress.cli.again import Beside
        from corepress.split import HELD_BACK

        how = self._config(config, source, check.goal)
        if not told:
            return Beside(how, self._plainly(), first=True)
        # The samples that exceptions were chosen by are kept away from ranges again.
        return Beside(how, {**told[0].keys, "held_back": HELD_BACK}, first=False)

    def _config(self, config: OptimizationConfig, source: Any, goal: Mapping[str, float]) -> OptimizationConfig:
        """How activations are quantized beside weights of this configuration."""
        from corepress.coreml.activations.quantize import as_for_weights

        return as_for_weights(config, source, self.activation_mode or ("linear" if goal else None))

    def _plainly(self) -> dict[str, Any]:
        """What is asked for without a goal."""
        return {
            "observer": self.observer or "min_max",
            "bias_correction": bool(self.bias_correction),
            "equalize": bool(self.equalize),
        }
