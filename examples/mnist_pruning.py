"""Prune three quarters of the weights of a small network for MNIST while it is fine-tuned, and convert it to Core ML.

    python examples/mnist_pruning.py --data /path/to/mnist

The table compares the trained network, the same pruned at once, and the one pruned step by step.
"""

from __future__ import annotations

import argparse
import copy
from typing import Any

import coremltools as ct
import mnist
import torch
from rich.console import Console
from rich.table import Table

from corepress.torch.pruning import MagnitudePruner, MagnitudePrunerConfig

SPARSITY = 0.75


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of the four files of MNIST")
    parser.add_argument("--epochs", type=float, default=1.0, help="of the first training")
    parser.add_argument("--fine-tuning", type=float, default=0.5, help="epochs of the second")
    parser.add_argument("--output", default="mnist_sparse.mlpackage")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    data = mnist.load(arguments.data)
    net = mnist.Net()
    mnist.train(net, data, arguments.epochs)

    at_once = pruner(net, {"begin_step": 0})
    at_once.prepare()
    at_once.step()

    steps = int(arguments.fine_tuning * len(data[0]) / mnist.BATCH)
    gradual = pruner(copy.deepcopy(net), {"update_steps": list(range(1, steps // 2 + 2, max(steps // 20, 1)))})
    model = gradual.prepare(inplace=True)
    mnist.train(model, data, arguments.fine_tuning, gradual.step, learning_rate=5e-4, description="Fine-tuning")
    finished = gradual.finalize()

    image = data[2][:1]
    package = ct.convert(
        torch.jit.trace(finished, image),
        inputs=[ct.TensorType(name="image", shape=image.shape)],
        minimum_deployment_target=ct.target.iOS16,
        skip_model_load=True,
    )
    package.save(arguments.output)

    zeros = gradual.report()["global"]["unstructured_weight_sparsity"]
    table = Table("network", "accuracy, %", title=f"MNIST; {zeros:.0%} zeros in {arguments.output}")
    rows = {"trained, dense": net, "pruned at once": at_once.finalize(), "pruned step by step": finished}
    for name, model in rows.items():
        table.add_row(name, f"{100 * mnist.accuracy(model, data):.2f}")
    Console().print(table)


def pruner(model: torch.nn.Module, scheduler: dict[str, Any]) -> MagnitudePruner:
    options = {"scheduler": scheduler, "target_sparsity": SPARSITY}
    return MagnitudePruner(model, MagnitudePrunerConfig.from_dict({"global_config": options}))


if __name__ == "__main__":
    main()
