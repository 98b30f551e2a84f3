"""Compresses the layers of a PyTorch model one after the other, each with the inputs that it gets by then."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from torch import Tensor, nn

from corepress.errors import CorepressError
from corepress.torch.calls import Call
from corepress.torch.layerwise_compression.algorithms import LayerwiseCompressionAlgorithm, OBSCompressionAlgorithm
from corepress.torch.layerwise_compression.checkpoint import Checkpoint
from corepress.torch.layerwise_compression.input_cacher import on_device
from corepress.torch.layerwise_compression.layout import is_supported
from corepress.torch.layerwise_compression.stages import Reads, Stage, chained, hooks, observe, whole
from corepress.torch.metadata import array_of, describe, read_weight
from corepress.torch.optimization_config import OptimizationConfig
from corepress.torch.parameters import Parameter, copy_of, parameters, together
from corepress.torch.progress import track
from corepress.torch.report import Report, row
from corepress.torch.rewrite import skipped


def unless_idle(config: Any) -> Any:
    """The configuration; None for float32 without pruning, with which nothing is to be done."""
    return None if getattr(config, "algorithm", "") == "gptq" and config.weight_n_bits > 8 else config


class Run:
    """One compression of a model, in place. `match_original`: layers make up for the errors of those before them."""

    def __init__(
        self, model: nn.Module, config: OptimizationConfig, match_original: bool, checkpoint: Checkpoint | None
    ):
        self._model, self._config, self._checkpoint = model, config, checkpoint
        self._match_original = match_original
        self._holders: dict[str, list[Parameter]] = {}  # of a weight, by each of its keys
        for holders in together(parameters(model)):
            holders.sort(key=lambda parameter: not is_supported(parameter.module))
            self._holders |= {parameter.key: holders for parameter in holders}

    def compress(self, names: list[str] | None, calls: list[Call], device: Any) -> Report:
        report = Report()
        # Of the layers that share a weight, the first compresses it.
        first = (p for p in parameters(self._model) if self._holders[p.key][0] == p)
        chosen = [p for p in first if is_supported(p.module) and self._config_of(p) is not None]
        stages: Iterable[Stage]
        match_original = self._match_original
        if names is None and not isinstance(self._model, nn.Sequential):
            original = copy_of(self._model) if match_original else None
            everything = itertools.chain(self._model.modules(), [] if original is None else original.modules())
            with on_device(everything, device):
                stages = whole(self._model, calls, chosen, device, original)
                reached = {parameter.key for stage in stages for parameter in stage.parameters}
                for parameter in chosen:
                    if parameter.key not in reached:
                        skipped(report, parameter, "no sample reaches it")
                self._compress_all(stages, len(stages), report)
            return report
        children = [name for name, _ in self._model.named_children()] if names is None else names
        layers = [(name, self._model.get_submodule(name)) for name in children]
        with contextlib.closing(chained(layers, calls, chosen, device, match_original)) as chain:
            self._compress_all(chain, len(layers), report)
        return report

    def _config_of(self, parameter: Parameter) -> Any:
        return unless_idle(self._config.get_module_config(parameter.owner_name, parameter.owner))

    def _compress_all(self, stages: Iterable[Stage], count: int, report: Report) -> None:
        for index, stage in enumerate(track(stages, "Compressing layers", count)):
            found = self._checkpoint.restore(index) if self._checkpoint else None
            if found is None:
                found = self._compress_stage(stage)
                if self._checkpoint:
                    self._checkpoint.save(index, self._keys(found), found)
            report.update(found)
            report.skipped.update(found.skipped)

    def _compress_stage(self, stage: Stage) -> Report:
        report = Report()
        algorithms = self._algorithms(stage, report)
        if not algorithms:
            return report
        reads = observe([p for p, _ in algorithms], lambda: stage.forward(stage.calls[0]))
        sharing = _sharing(algorithms, reads)
        # To match the original, layers need to see what those before them became, also within a stage.
        for groups in [sharing] if stage.original is None else [[group] for group in sharing]:
            self._feed(stage, [group[0] for group in groups])
            for parameter, algorithm in itertools.chain(*groups):
                self._compress(parameter, algorithm, report)
        return report

    def _feed(self, stage: Stage, watched: list[tuple[Parameter, Any]]) -> None:
        names = [parameter.module_name for parameter, _ in watched]
        for number, call in enumerate(stage.calls):
            originals = {} if stage.original is None else stage.original.inputs(number, names)
            feeding = ((p, _feeding(algorithm, originals.get(p.module_name, []))) for p, algorithm in watched)
            with hooks(parameter.module.register_forward_hook(hook) for parameter, hook in feeding):
                stage.forward(call)

    def _algorithms(self, stage: Stage, report: Report) -> list[tuple[Parameter, Any]]:
        found = []
        for parameter in stage.parameters:
            config = self._config_of(parameter)
            try:
                kind = LayerwiseCompressionAlgorithm.get_class(config.algorithm)
                found.append((parameter, kind(parameter.module, config)))
            except ValueError as reason:
                skipped(report, parameter, str(reason))
        return found

    def _compress(self, parameter: Parameter, algorithm: Any, report: Report) -> None:
        holders = self._holders[parameter.key]
        before = array_of(parameter.value).copy()
        try:
            form: Any = algorithm.compress()
            form = read_weight(parameter) if form is None else form
        except CorepressError as reason:
            skipped(report, parameter, str(reason))
            return
        finally:
            algorithm.cleanup()
        if isinstance(form, np.ndarray):  # what an algorithm of somebody's own did has no buffers
            return
        for other in holders:
            if other.module is not parameter.module:
                describe(other, form)
            report[other.key] = row(before, form)

    def _keys(self, report: Report) -> list[str]:
        """The entries of the state dictionary that a stage has written."""
        return [
            key
            for key in self._model.state_dict()
            for weight in report
            if key == weight or key.startswith(f"{weight.rpartition('.')[0]}._COREML_/{weight.rpartition('.')[2]}/")
        ]


def _sharing(algorithms: list[tuple[Parameter, Any]], reads: Mapping[str, Reads]) -> list[list[tuple[Parameter, Any]]]:
    """Those that get the same inputs together, the statistics of the first serving all; in the order of their calls."""
    groups: dict[Any, list[tuple[Parameter, Any]]] = {}
    for parameter, algorithm in algorithms:
        inputs: Any = tuple(tensor for _, tensor in reads.get(parameter.module_name, ()))
        own = isinstance(algorithm, OBSCompressionAlgorithm)
        group = groups.setdefault((inputs, algorithm.reads) if own else parameter.key, [])
        if group:
            algorithm.share(group[0][1])
        group.append((parameter, algorithm))
    never = ((sum(map(len, reads.values())), -1),)
    return sorted(groups.values(), key=lambda group: reads.get(group[0][0].module_name, never)[0])


def _feeding(algorithm: Any, originals: list[Tensor]) -> Callable[..., None]:
    remaining = iter(originals)

    def hook(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if args and isinstance(args[0], Tensor):
            original = next(remaining, None)
            takes = original is not None and isinstance(algorithm, OBSCompressionAlgorithm)
            more = {"original": original} if takes else {}
            algorithm.add_batch(args[0], output, **more)

    return hook
