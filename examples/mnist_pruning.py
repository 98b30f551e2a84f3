"""Prune three quarters of the weights of a small network for MNIST while it is fine-tuned, and convert it to Core ML.

    python examples/mnist_pruning.py --data /path/to/mnist

The table compares the trained network, the same pruned at once, and the one pruned step by step.
"""

from __future__ import annotations

import copy
from typing import Any

import coremltools as ct
import mnist
import torch

from corepress.torch.pruning import MagnitudePruner, MagnitudePrunerConfig

SPARSITY = 0.75


def main() -> None:
    arguments, data, net = mnist.begin(__doc__, fine_tuning=0.5, output="mnist_sparse.mlpackage")

    at_once = pruner(net, {"begin_step": 0})
    at_once.prepare()
    at_once.step()

    steps = int(arguments.fine_tuning * len(data[0]) / mnist.BATCH)
    gradual = pruner(copy.deepcopy(net), {"update_steps": list(range(1, steps // 2 + 2, max(steps // 20, 1)))})
    model = gradual.prepare(inplace=True)
    mnist.train(model, data, arguments.fine_tuning, gradual.step, learning_rate=5e-4, description="Fine-tuning")
    finished = gradual.finalize()

    mnist.convert(finished, data, arguments.output, ct.target.iOS16)

    zeros = gradual.report()["global"]["unstructured_weight_sparsity"]
    models = {"trained, dense": net, "pruned at once": at_once.finalize(), "pruned step by step": finished}
    mnist.show(f"{zeros:.0%} zeros in {arguments.output}", models, data)


def pruner(model: torch.nn.Module, scheduler: dict[str, Any]) -> MagnitudePruner:
    options = {"scheduler": scheduler, "target_sparsity": SPARSITY}
    return MagnitudePruner(model, MagnitudePrunerConfig.from_dict({"global_config": options}))


if __name__ == "__main__":
    main()
