"""Fine-tune a small network for MNIST to weights of 2 bits with differentiable k-means, and convert it to Core ML.

    python examples/mnist_dkm.py --data /path/to/mnist

The table compares the trained network, the same with its weights clustered to 2 bits, and the fine-tuned one.
"""

from __future__ import annotations

import copy

import coremltools as ct
import mnist

from corepress.torch.palettization import (
    DKMPalettizer,
    DKMPalettizerConfig,
    PostTrainingPalettizer,
    PostTrainingPalettizerConfig,
)

TWO_BITS = {"n_bits": 2}


def main() -> None:
    arguments, data, net = mnist.begin(__doc__, fine_tuning=0.5, output="mnist_2bit.mlpackage")

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

    mnist.convert(finished, data, arguments.output, ct.target.iOS16)

    models = {"trained, float32": net, "weights clustered to 2 bits": clustered, "fine-tuned to 2 bits": finished}
    mnist.show(f"{size:,} bytes of weights in {arguments.output}", models, data)


if __name__ == "__main__":
    main()
