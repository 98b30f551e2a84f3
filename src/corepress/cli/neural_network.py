"""What the commands do with a neural network, the model type of iOS 15 and older."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corepress.cli import streams
from corepress.cli.usage import Checked, on_command_line
from corepress.cli.words import translate
from corepress.errors import ConfigError

if TYPE_CHECKING:
    from corepress.neural_network import Model

log = logging.getLogger(__name__)

_COMMON = {"model", "output", "overwrite", "workers", "as_json"}
# The options of each command that mean something for a neural network.
_OPTIONS = {
    "palettize": _COMMON | {"nbits", "mode", "weight_threshold"},
    "quantize": _COMMON | {"dtype", "mode", "weight_threshold"},
    "decompress": _COMMON,
}
_MODES = {"kmeans": "kmeans", "uniform": "linear_lut"}


class ForNeuralNetworksToo(Checked):
    """A command that does its work here if its model holds neural networks, and in its own function if not."""

    def invoke(self, ctx: Any) -> Any:
        from corepress.neural_network.model import load_if_networks

        model = load_if_networks(ctx.params["model"])
        return super().invoke(ctx) if model is None else _run(model, str(self.name), ctx)


def _run(model: Model, command: str, context: Any) -> None:
    for name in on_command_line(context):
        if name not in _OPTIONS[command]:
            flag = f"--{name.replace('_', '-')}"
            raise ConfigError(f"{flag}: {model.path} is a neural network, for which {command} has no such option")
    _compress(model, command, context.params)


def _compress(model: Model, command: str, options: dict[str, Any]) -> None:
    from corepress.cli import show
    from corepress.mlprogram.package import check_output
    from corepress.neural_network.quantization_utils import quantize_weights

    output = Path(options["output"])
    assert model.path is not None
    check_output(output, model.path, overwrite=options["overwrite"])
    nbits, mode = _way(command, options)
    threshold = options.get("weight_threshold", 0)
    with show.progress(command) as progress:
        result = quantize_weights(
            model, nbits, mode, weight_threshold=threshold, workers=options["workers"], progress=progress
        )
        result.save(output, overwrite=options["overwrite"])
    _warn_if_in_vain(model, result, command)
    _summary(model, result, output, options["as_json"])


def _warn_if_in_vain(before: Model, after: Model, command: str) -> None:
    """Say that nothing was done, with the reason of the largest weight, or that the model grew."""
    left = [weight for weight in after.weights() if weight.name in after.skipped]
    if not after.changed:
        largest = max(left, key=lambda weight: weight.stored_bytes, default=None)
        reason = "the model has none" if largest is None else (
            f'the largest of {len(left)}, "{largest.name}" ({"x".join(map(str, largest.shape))}), was left alone: '
            f"{after.skipped[largest.name]}"
        )  # fmt: skip
        log.warning("no weight was %s: %s.", "decompressed" if command == "decompress" else "compressed", reason)
    elif command != "decompress" and after.size() >= before.size():
        log.warning("the model did not become smaller: %d bytes before, %d after", before.size(), after.size())


def _way(command: str, options: dict[str, Any]) -> tuple[int, str]:
    """The number of bits and the mode of `quantize_weights`."""
    if command == "decompress":
        return 8, "dequantization"
    mode = options["mode"].value
    if command == "quantize":
        return (4 if options["dtype"].value.endswith("4") else 8), mode
    if mode not in _MODES:
        raise ConfigError(f"--mode {mode}: neural networks have {' and '.join(_MODES)} only")
    return options["nbits"] or 4, _MODES[mode]


def _summary(before: Model, after: Model, output: Path, as_json: bool) -> None:
    from corepress import tables
    from corepress.cli import show

    sizes, weights = (before.size(), after.size()), len(after.weights())
    skipped = {name: translate(reason) for name, reason in after.skipped.items()}
    if as_json:
        facts = {"output": str(output), "size_before": sizes[0], "size_after": sizes[1], "weights": weights}
        streams.document({**facts, "compressed": after.changed, "skipped": skipped})
        return
    reasons = Counter(skipped.values()).most_common()
    show.console().print(tables.facts([
        ("written to", str(output)),
        ("size", f"{show.size(sizes[0])} -> {show.size(sizes[1])}, ratio {sizes[0] / sizes[1]:.2f}"),
        ("compressed", f"{after.changed} of {weights} weights"),
        ("left alone", "\n".join(f"{count}: {reason}" for reason, count in reasons) or "none"),
    ]))  # fmt: skip
