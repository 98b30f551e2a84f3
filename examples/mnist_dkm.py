"""Fine-tune a small network for MNIST to weights of 2 bits with differentiable k-means, and convert it to Core ML.

    python examples/mnist_dkm.py --data /path/to/mnist

The table compares the trained network, the same with its weights clustered to 2 bits, and the fine-tuned one.
"""

from __future__ import annotations

import argparse
import copy

import coremltools as ct
import mnist
import torch
from rich.console import Console
from rich.table import Table

from corepress.torch.palettization import (
    DKMPalettizer,
    DKMPalettizerConfig,
    PostTrainingPalettizer,
    PostTrainingPalettizerConfig,
)

TWO_BITS = {"n_bits": 2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of the four files of MNIST")
    parser.add_argument("--epochs", type=float, default=1.0, help="of the first training")
    parser.add_argument("--fine-tuning", type=float, default=0.5, help="epochs of the second")
    parser.add_argument("--output", default="mnist_2bit.mlpackage")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    data = mnist.load(arguments.data)
    net = mnist.Net()
    mnist.train(net, data, arguments.epochs)

    clustered = PostTrainingPalettizer(
        net, PostTrainingPalettizerConfig.from_dict({"global_config": TWO_BITS})
    ).compress()

    # By default small weights are left alone.
    config = DKMPalettizerConfig.from_dict({"global_config": TWO_BITS | {"weight_threshold": 0}})
    palettizer = DKMPalettizer(copy.deepcopy(net), config)
    model = palettizer.prepare(inplace=True)
    mnist.train(model, data, arguments.fine_tuning, palettizer.step, learning_rate=5e-4, description="Fine-tuning")
    finished = palettizer.finalize()
    size = sum(row["stored_bytes"] for row in palettizer.report().values())

    image = data[2][:1]
    package = ct.convert(
        torch.jit.trace(finished, image),
        inputs=[ct.TensorType(name="image", shape=image.shape)],
        minimum_deployment_target=ct.target.iOS16,
        skip_model_load=True,
    )
    package.save(arguments.output)

    table = Table("network", "accuracy, %", title=f"MNIST; {size:,} bytes of weights in {arguments.output}")
    rows = {"trained, float32": net, "weights clustered to 2 bits": clustered, "fine-tuned to 2 bits": finished}
    for name, model in rows.items():
        table.add_row(name, f"{100 * mnist.accuracy(model, data):.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
