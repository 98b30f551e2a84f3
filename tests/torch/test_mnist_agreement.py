"""A network for MNIST, trained with quantization and converted, answers all test images as its PyTorch model does."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from corepress.runtime import load
from corepress.torch.quantization import LinearQuantizer, LinearQuantizerConfig

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("MNIST", ROOT / "data" / "mnist"))
sys.path.insert(0, str(ROOT / "examples"))
import mnist  # noqa: E402

BATCH = 1000
STEPS = 40


@pytest.fixture(scope="module")
def data() -> mnist.Data:
    if not all((DATA / f"{name}-ubyte.gz").exists() for name in mnist.FILES):
        pytest.skip(f"no MNIST in {DATA}: set MNIST to the folder of its four files")
    return mnist.load(DATA)


@pytest.fixture(scope="module")
def network(data: mnist.Data) -> nn.Module:
    torch.manual_seed(0)
    net = mnist.Net()
    mnist.train(net, data, 0.3)
    return net


@pytest.mark.slow
@pytest.mark.parametrize("dtype, target", [("qint8", "iOS17"), ("qint4", "iOS18")])
def test_the_package_agrees_with_the_model(dtype: str, target: str, data: mnist.Data, network: nn.Module, tmp_path):
    ct = pytest.importorskip("coremltools")
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    options = {"weight_dtype": dtype, "milestones": [0, 0, 30, STEPS]}
    quantizer = LinearQuantizer(network, LinearQuantizerConfig.from_dict({"global_config": options}))
    model = quantizer.prepare((data[0][:1],))
    quantizer.step()
    mnist.train(model, data, STEPS * mnist.BATCH / len(data[0]), quantizer.step, learning_rate=2e-4)
    finished = quantizer.finalize()
    images = data[2]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = torch.cat([finished(batch).argmax(1) for batch in images.split(BATCH)]).numpy()
        converted = ct.convert(
            torch.jit.trace(finished, images[:BATCH]),
            inputs=[ct.TensorType("image", (BATCH, 1, 28, 28))],
            outputs=[ct.TensorType("logits")],
            minimum_deployment_target=getattr(ct.target, target),
            skip_model_load=True,
        )
    converted.save(str(tmp_path / "model.mlpackage"))
    program = load(tmp_path / "model.mlpackage")
    answers = [program.predict({"image": batch.numpy()})["logits"].argmax(1) for batch in images.split(BATCH)]
    agreement = float((np.concatenate(answers) == expected).mean())
    accuracy = float((expected == data[3].numpy()).mean())
    print(f"{dtype}: agreement {agreement:.2%}, accuracy {accuracy:.2%}")
    assert agreement >= 0.995
    assert accuracy > 0.9  # agreement of models that know nothing would say nothing
