"""Fine-tune a small network for MNIST to weights of 4 and activations of 8 bits, and convert it to Core ML.

    python examples/mnist_qat.py --data /path/to/mnist

The table compares the trained network, the same with its weights rounded to 4 bits, and the fine-tuned one.
"""

from __future__ import annotations

import copy

import coremltools as ct
import mnist

from corepress.torch.quantization import (
    LinearQuantizer,
    LinearQuantizerConfig,
    PostTrainingQuantizer,
    PostTrainingQuantizerConfig,
)


def main() -> None:
    arguments, data, net = mnist.begin(__doc__, fine_tuning=0.3, output="mnist_w4a8.mlpackage")

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

    mnist.convert(finished, data, arguments.output, ct.target.iOS18)

    models = {"trained, float32": net, "weights rounded to 4 bits": rounded, "fine-tuned, W4A8": finished}
    mnist.show(f"written to {arguments.output}", models, data)


if __name__ == "__main__":
    main()
