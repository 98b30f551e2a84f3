"""A neural network as a plan: what its inputs become, its layers, what its outputs become."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from corepress.errors import CorepressError, FormatError, UnsupportedError
from corepress.formats.features import Interface, interface_of
from corepress.runtime.executor import Executor
from corepress.runtime.forms import ANY
from corepress.runtime.networks.boundary import as_array, as_image, as_output, described, preparation
from corepress.runtime.networks.custom import Custom, check_custom
from corepress.runtime.networks.needed import needed, nodes_of
from corepress.runtime.networks.steps import NetworkPlanner
from corepress.runtime.plan import Block, Computed, Step, check_names, mark_last_uses
from corepress.runtime.precision import Precision
from corepress.runtime.program import Program
from corepress.runtime.registry import OPERATIONS


def load_network(
    path: Path | None, spec: Any, device: torch.device, precision: Precision, custom: Custom | None = None
) -> Program:
    """The network that `spec`, a message `Model`, holds; `path` stands in errors, if it has one.

    `custom`: the functions of custom layers, by the name of their class.
    """
    network = getattr(spec, str(spec.WhichOneof("Type")))
    interface = interface_of(spec.description, "")
    planner = NetworkPlanner(precision, network.arrayInputShapeMapping == 0, check_custom(custom))
    interface = replace(interface, inputs=tuple(described(feature, planner.rank5) for feature in interface.inputs))
    try:
        outputs, last_steps = _outputs(planner, network, interface)
        wanted = [value.name for step in last_steps for value in step.arguments.values() if isinstance(value, Computed)]
        layers = planner.steps(needed(nodes_of(network), [*wanted, *outputs.values()]))
        steps = [*_inputs(planner, network, interface), *layers, *last_steps]
        names = tuple(feature.name for feature in interface.inputs)
        block = Block(names, steps, tuple(Computed(name, ANY) for name in outputs.values()), tuple(outputs))
        check_names(block, ())
    except CorepressError as error:
        raise FormatError(f"{path or 'the model'}: {error}") from error
    mark_last_uses(block)
    return Program(interface, Executor(block, planner.held), device, precision, constants=planner.buffers)


def _inputs(planner: NetworkPlanner, network: Any, interface: Interface) -> list[Step]:
    """The steps that make of the inputs what the layers take."""
    pictures = [feature for feature in interface.inputs if feature.kind == "image"]
    steps = []
    for feature in interface.inputs:
        arguments: dict[str, Any] = {"x": Computed(feature.name), "dtype": planner.dtype}
        if feature.kind == "image":
            arguments["rank5"] = network.imageInputShapeMapping == 0
            for key, array in preparation(feature, network.preprocessing, len(pictures) == 1).items():
                arguments[key] = planner.hold(f"{feature.name}.{key}", array)
            steps.append(Step("image", feature.name, arguments, (feature.name,), function=as_image))
        elif feature.kind == "array":
            arguments["rank5"] = planner.rank5
            steps.append(Step("input", feature.name, arguments, (feature.name,), function=as_array))
        else:
            raise UnsupportedError(f"the input {feature.name!r} is a {feature.kind}, which a neural network can't take")
    return steps


def _outputs(planner: NetworkPlanner, network: Any, interface: Interface) -> tuple[dict[str, str], list[Step]]:
    """By the names of the outputs, those of their values; and the steps that make them of what the layers give."""
    names = {feature.name: feature.name for feature in interface.outputs}
    steps = [_classes(network, interface)] if interface.label else []
    for feature in interface.outputs:
        image = feature.kind == "image"
        if (planner.rank5 or image) and feature.name not in (interface.label, interface.probabilities):
            names[feature.name] = f"{feature.name} (output)"
            arguments = {"x": Computed(feature.name), "shape": feature.shape, "image": image}
            steps.append(Step("output", feature.name, arguments, (names[feature.name],), function=as_output))
    return names, steps


def _classes(network: Any, interface: Interface) -> Step:
    kind = network.WhichOneof("ClassLabels")
    if kind is None:
        raise FormatError("the classifier has no class labels")
    last = network.layers[-1].output if network.layers else []
    scores = network.labelProbabilityLayerName or next(iter(last), "")
    arguments = {"probabilities": Computed(scores), "classes": list(getattr(network, kind).vector)}
    names = (interface.label, interface.probabilities or f"{scores}_by_class")
    return Step("classify", interface.label, arguments, names, function=OPERATIONS["classify"].function)
