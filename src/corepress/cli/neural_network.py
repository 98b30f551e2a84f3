"""What the commands do with a neural network, the model type of iOS 15 and older."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from corepress.cli.usage import Checked, check, on_command_line, word
from corepress.errors import ConfigError

if TYPE_CHECKING:
    from corepress.formats.neural_network import Model

_COMMON = {"model", "output", "overwrite", "workers", "as_json"}
# In the order of the fields of `Check`.
_JUDGED = ("verify", "data", "test_data", "metric", "verify_threshold", "min_snr")
_CHOICE = {"weight_threshold", "all_constants", "strict"}
# The options of each command that mean something for a neural network.
_OPTIONS = {
    "palettize": _COMMON.union(_JUDGED, _CHOICE, {"nbits", "mode"}),
    "quantize": _COMMON.union(_JUDGED, _CHOICE, {"dtype", "mode"}),
    "decompress": _COMMON,
}
_MODES = {"kmeans": "kmeans", "uniform": "linear_lut"}
_HALF = 16


class ForNeuralNetworksToo(Checked):
    """A command that does its work here if its model holds neural networks, and in its own function if not."""

    def invoke(self, ctx: Any) -> Any:
        from corepress.formats.neural_network import Model
        from corepress.formats.read import load

        ctx.obj = load(ctx.params["model"])
        if isinstance(ctx.obj, Model):
            return _run(ctx.obj, str(self.name), ctx)
        return super().invoke(ctx)


def _run(model: Model, command: str, context: Any) -> None:
    from corepress.cli.check import Check
    from corepress.cli.steps import run_step
    from corepress.neural_network.quantization_utils import quantize_weights

    options = context.params
    given = list(on_command_line(context))
    for name in given:
        if name not in _OPTIONS[command]:
            flag = f"--{name.replace('_', '-')}"
            raise ConfigError(f"{flag}: {model.path} is a neural network, for which {command} has no such option")
    check(command, context)
    nbits, mode = _way(command, options)
    if nbits == _HALF and "mode" in given:
        raise ConfigError("--mode has no effect beside --dtype float16, which has no steps")

    def step(source: Model, progress: Any, _: Any) -> Any:
        return quantize_weights(
            source, nbits, mode, weight_threshold=options.get("weight_threshold", 0),
            spare_constants=not options.get("all_constants", False), strict=options.get("strict", False),
            workers=options["workers"], progress=progress,
        )  # fmt: skip

    judged = Check(bool(options.get(_JUDGED[0])), *(options.get(name) for name in _JUDGED[1:]))
    run_step(command, model, Path(options["output"]), options["overwrite"], options["as_json"], step, judged)


def _way(command: str, options: dict[str, Any]) -> tuple[int, str]:
    """The number of bits and the mode of `quantize_weights`."""
    if command == "decompress":
        return 8, "dequantization"
    mode = word(options["mode"])
    if command == "quantize":
        kind = word(options["dtype"])
        return _HALF if kind == "float16" else 4 if kind.endswith("4") else 8, mode
    if mode not in _MODES:
        raise ConfigError(f"--mode {mode}: neural networks have {' and '.join(_MODES)} only")
    return options["nbits"] or 4, _MODES[mode]
