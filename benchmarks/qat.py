"""Quantization-aware training of the MNIST network, ours and coremltools': seconds of a step, and accuracy.

    python benchmarks/qat.py --data /path/to/mnist              # three seeds
    python benchmarks/qat.py --data /path/to/mnist --seeds 1 --steps 50

A step is forward, backward, Adam and `quantizer.step()` on a batch of 128, in one thread; the fastest of all, taken in
turn with steps of the plain network. Processor milliseconds say more on a machine that others use too.

Accuracy: of the finalized model on the 10,000 test images, each library having had the same network, trained for half
an epoch, and the same batches for its short training; the mean over the seeds.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import logging
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
import mnist

CLOCKS = (time.perf_counter, time.process_time)
LIBRARIES = ("corepress", "coremltools.optimize")
KINDS = {"W8A8": {"weight_dtype": "qint8"}, "W4A8": {"weight_dtype": "qint4"}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of the four files of MNIST")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=100, help="steps of the training that quantizes")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    data = mnist.load(arguments.data)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    Console().print(speeds(data))
    torch.set_num_threads(threads)
    Console().print(accuracies(data, arguments.seeds, arguments.steps))


def prepared(library: str, net: nn.Module, options: dict[str, Any]) -> tuple[Any, nn.Module]:
    """The quantizer of a library, and its model."""
    quantization = importlib.import_module(f"{library}.torch.quantization")
    config = quantization.LinearQuantizerConfig.from_dict({"global_config": options})
    quantizer = quantization.LinearQuantizer(copy.deepcopy(net), config)
    return quantizer, quantizer.prepare((torch.zeros(1, 1, 28, 28),))


def speeds(data: mnist.Data, rounds: int = 30) -> Table:
    """Milliseconds of a step."""
    images, labels = data[0][: mnist.BATCH], data[1][: mnist.BATCH]

    def stepping(model: nn.Module, after: Callable[[], object]) -> Callable[[], None]:
        optimizer = torch.optim.Adam(model.parameters(), 1e-4)

        def step() -> None:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
            after()

        return step

    net = mnist.Net()
    steps = {("plain", "training"): stepping(copy.deepcopy(net), lambda: None)}
    for kind, options in KINDS.items():
        for library in LIBRARIES:
            quantizer, model = prepared(library, net, options)
            steps[library, kind] = stepping(model, quantizer.step)
    fastest = {key: [float("inf")] * 2 for key in steps}
    for _ in range(rounds):
        for key, step in steps.items():
            starts = [clock() for clock in CLOCKS]
            step()
            taken = [clock() - start for clock, start in zip(CLOCKS, starts, strict=True)]
            fastest[key] = list(map(min, fastest[key], taken))
    table = Table("model", "", "milliseconds", "of processor", "times the plain step", title="a step of 128 images")
    plain = fastest["plain", "training"]
    for (library, kind), times in fastest.items():
        ratios = [f"{mine / theirs:.2f}" for mine, theirs in zip(times, plain, strict=True)]
        table.add_row(library, kind, *(f"{1000 * seconds:.1f}" for seconds in times), f"{ratios[0]} ({ratios[1]})")
    return table


def accuracies(data: mnist.Data, seeds: int, steps: int) -> Table:
    """Per cent of the test images that are recognized, before and after."""
    found: dict[tuple[str, str], list[float]] = {}
    epochs = steps * mnist.BATCH / len(data[0])
    for seed in range(seeds):
        torch.manual_seed(seed)
        net = mnist.Net()
        mnist.train(net, data, 0.5)
        found.setdefault(("plain", "before"), []).append(mnist.accuracy(net, data))
        for kind, options in KINDS.items():
            for library in LIBRARIES:
                milestones = [0, 0, steps * 3 // 4, steps]
                quantizer, model = prepared(library, net, {**options, "milestones": milestones})
                quantizer.step()
                torch.manual_seed(seed)
                mnist.train(model, data, epochs, quantizer.step, learning_rate=2e-4, description=f"{library} {kind}")
                found.setdefault((library, kind), []).append(mnist.accuracy(quantizer.finalize(), data))
    table = Table("model", "", "accuracy, %", "of each seed", title=f"after {steps} steps")
    for (library, kind), values in found.items():
        mean = 100 * sum(values) / len(values)
        table.add_row(library, kind, f"{mean:.2f}", ", ".join(f"{100 * value:.2f}" for value in values))
    return table


if __name__ == "__main__":
    main()
