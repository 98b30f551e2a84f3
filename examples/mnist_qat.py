"""Fine-tune a small network for MNIST to weights of 4 and activations of 8 bits, and convert it to Core ML.

    python examples/mnist_qat.py --data /path/to/mnist

The table compares the trained network, the same with its weights rounded to 4 bits, and the fine-tuned one.
"""

from __future__ import annotations

import argparse
import copy

import coremltools as ct
import mnist
import torch
from rich.console import Console
from rich.table import Table

from corepress.torch.quantization import (
    LinearQuantizer,
    LinearQuantizerConfig,
    PostTrainingQuantizer,
    PostTrainingQuantizerConfig,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of the four files of MNIST")
    parser.add_argument("--epochs", type=float, default=1.0, help="of the first training")
    parser.add_argument("--fine-tuning", type=float, default=0.3, help="epochs of the second")
    parser.add_argument("--output", default="mnist_w4a8.mlpackage")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    data = mnist.load(arguments.data)
    net = mnist.Net()
    mnist.train(net, data, arguments.epochs)

    rounding = PostTrainingQuantizerConfig.from_dict({"global_config": {"weight_dtype": "int4"}})
    rounded = PostTrainingQuantizer(net, rounding).compress()

    steps = int(arguments.fine_tuning * len(data[0]) / mnist.BATCH)
    options = {"weight_dtype": "qint4", "milestones": [0, 0, steps * 3 // 4, -1]}
    config = LinearQuantizerConfig.from_dict({"global_config": options})
    quantizer = LinearQuantizer(copy.deepcopy(net), config)
    model = quantizer.prepare((data[0][:1],))
    quantizer.step()  # the milestones at 0
    mnist.train(model, data, arguments.fine_tuning, quantizer.step, learning_rate=2e-4, description="Fine-tuning")
    finished = quantizer.finalize()

    image = data[2][:1]
    package = ct.convert(
        torch.jit.trace(finished, image),
        inputs=[ct.TensorType(name="image", shape=image.shape)],
        minimum_deployment_target=ct.target.iOS18,
        skip_model_load=True,
    )
    package.save(arguments.output)

    table = Table("network", "accuracy, %", title=f"MNIST; written to {arguments.output}")
    rows = {"trained, float32": net, "weights rounded to 4 bits": rounded, "fine-tuned, W4A8": finished}
    for name, model in rows.items():
        table.add_row(name, f"{100 * mnist.accuracy(model, data):.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
