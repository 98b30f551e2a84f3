"""How good networks still are that were compressed while they were trained: writes `docs/training_quality.md`.

    python benchmarks/training_quality.py                              # about 15 minutes
    python benchmarks/training_quality.py --tasks digits --only DKM    # prints a part, writes nothing

Two small convolutional networks, trained in float32 first. Then each library is given the same weights, the same
configuration and the same batches in the same order. MNIST is where `quality.py` looks for it.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import importlib
import io
import logging
import math
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from quality_tasks import MNIST, ROOT, build_digits, load_program, mnist

OUTPUT = ROOT / "docs" / "training_quality.md"
LIBRARIES = {"corepress": "corepress.torch", "coremltools": "coremltools.optimize.torch"}
TASKS = ("digits", "MNIST")
FLOAT_STEPS, STEPS = 400, 100  # of training in float32, and of compression
AT_ONCE = 1000  # test images

INTRODUCTION = """\
# How good compression while training is

Made by `python benchmarks/training_quality.py`: corepress beside coremltools 9.0, on two small convolutional networks.
Both libraries start with the same trained float32 network, have the same configuration (the peer's defaults, but for
what the name of a row says) and see the same batches in the same order, with the same dropout; seeds: {seeds}, of which
each has a float32 network of its own. The numbers are those of the finalized model on all test images, the mean over
the seeds.

- Accuracy, in %, ± the standard deviation over the seeds. One image of digits is 0.28, one of MNIST 0.01.
- "ahead": corepress's accuracy less coremltools', ± the standard error of that mean difference.
- Cross-entropy of the test images (lower is better) tells apart what a count of images can't.
- Seconds of the processor for one run, in one thread: preparation, training, finalization, and the test images.
- Agreement: of the images, how many the package converted for iOS18 puts into the same class, in `corepress.runtime`,
  as the finalized PyTorch model.

The budget: {float_steps} steps of training in float32, then {steps} with compression, of 64 images (digits) or 128
(MNIST). It is as much as coremltools' DKM, by far the slowest, allows: of 4 bits it takes 20 s for the first tables and
half a second for each step, and all is to end within a quarter of an hour.
"""


@dataclass(frozen=True)
class Task:
    """Networks trained in float32, for each seed; images and labels; how many images a step sees."""

    title: str
    networks: dict[int, nn.Module]
    data: mnist.Data
    batch: int


class Method(NamedTuple):
    """The class of an optimizer, in a module of either library, and its global configuration."""

    name: str
    module: str
    optimizer: str
    options: dict[str, Any]
    learning_rate: float


METHODS = (
    Method("DKM, 4 bits", "palettization", "DKMPalettizer", {"n_bits": 4}, 5e-4),
    Method("DKM, 2 bits", "palettization", "DKMPalettizer", {"n_bits": 2}, 5e-4),
    Method("DKM, 1 bit", "palettization", "DKMPalettizer", {"n_bits": 1}, 5e-4),
    *(
        Method(
            f"LinearQuantizer, {name}",
            "quantization",
            "LinearQuantizer",
            {"weight_dtype": dtype, "milestones": [0, 0, STEPS * 3 // 4, STEPS]},
            2e-4,
        )
        for name, dtype in (("W8A8", "qint8"), ("W4A8", "qint4"))
    ),
    *(
        # In ten steps to the target, which is reached at half of the training.
        Method(
            f"MagnitudePruner, {sparsity:.0%}",
            "pruning",
            "MagnitudePruner",
            {
                "target_sparsity": sparsity,
                "scheduler": {"update_steps": [1 + each * STEPS // 20 for each in range(10)]},
            },
            5e-4,
        )
        for sparsity in (0.75, 0.9)
    ),
)


class Score(NamedTuple):
    """Accuracy and agreement in %; `agreement`: of a quantized model's package."""

    accuracy: float
    loss: float
    seconds: float = 0.0
    agreement: float | None = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default=",".join(TASKS), help="only these; prints, and writes nothing")
    parser.add_argument("--only", default="", help="only methods whose name contains this; prints, and writes nothing")
    parser.add_argument("--seeds", default="0,1,2")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    os.environ["TQDM_DISABLE"] = "1"
    torch.set_num_threads(1)  # more are slower for tensors of this size
    seeds = [int(seed) for seed in options.seeds.split(",")]
    chosen = [method for method in METHODS if options.only in method.name]
    whole = not options.only and options.tasks == ",".join(TASKS)
    lines = INTRODUCTION.format(seeds=options.seeds, float_steps=FLOAT_STEPS, steps=STEPS).splitlines()
    for title in options.tasks.split(","):
        task = digits(seeds) if title == "digits" else handwriting(seeds)
        for line in compare(task, chosen):
            print(line, flush=True)
            lines.append(line)
            if whole:
                OUTPUT.write_text("\n".join([*lines, ""]))


def digits(seeds: list[int]) -> Task:
    train_images, images, train_labels, labels = map(torch.from_numpy, build_digits.digits())
    return trained("digits", build_digits.network, (train_images, train_labels, images, labels), seeds, 64)


def handwriting(seeds: list[int]) -> Task:
    return trained("MNIST", mnist.Net, mnist.load(MNIST), seeds, 128)


def trained(title: str, network: Callable[[], nn.Module], data: mnist.Data, seeds: list[int], batch: int) -> Task:
    networks = {}
    for seed in seeds:
        torch.manual_seed(seed)
        networks[seed] = network()
        train(networks[seed], data, FLOAT_STEPS, batch, 2e-3, seed)
    return Task(title, networks, data, batch)


def train(
    model: nn.Module,
    data: mnist.Data,
    steps: int,
    batch: int,
    learning_rate: float,
    seed: int,
    on_step: Callable[[], object] = lambda: None,
) -> None:
    """With Adam, whose rate falls to zero along a cosine."""
    images, labels = data[:2]
    random = torch.Generator().manual_seed(seed)
    adam = torch.optim.Adam(model.parameters(), learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    model.train()
    for step in range(steps):
        torch.manual_seed(steps * seed + step)  # the same dropout, however many random values a library draws
        chosen = torch.randint(len(images), (batch,), generator=random)
        adam.zero_grad()
        nn.functional.cross_entropy(model(images[chosen]), labels[chosen]).backward()
        adam.step()
        schedule.step()
        on_step()


def compare(task: Task, chosen: list[Method]) -> Iterator[str]:
    """The head of a table, then its rows, each as soon as it is known."""
    plain = [score(network, task.data) for network in task.networks.values()]
    yield f"\n## {task.title}\n"
    yield f"Without compression: {spread([each.accuracy for each in plain])}, {mean_loss(plain)}.\n"
    heads = ["corepress", "coremltools", "ahead", "cross-entropy", "coremltools'", "seconds", "coremltools'"]
    yield f"| method | {' | '.join([*heads, 'agreement'])} |"
    yield "| --- " + "| ---: " * (len(heads) + 1) + "|"
    for method in chosen:
        pairs = [[compress(library, method, task, seed) for library in LIBRARIES] for seed in task.networks]
        yield f"| {' | '.join(cells(method, pairs))} |"


def compress(library: str, method: Method, task: Task, seed: int) -> Score:
    """Train with a method of a library, finalize, and score."""
    module = importlib.import_module(f"{LIBRARIES[library]}.{method.module}")
    config = getattr(module, f"{method.optimizer}Config").from_dict({"global_config": copy.deepcopy(method.options)})
    optimizer = getattr(module, method.optimizer)(copy.deepcopy(task.networks[seed]), config)
    quantizes = method.module == "quantization"
    torch.manual_seed(seed)
    start = time.process_time()
    if quantizes:
        model = optimizer.prepare((task.data[0][:1],))
        optimizer.step()  # the milestones at 0
    else:
        model = optimizer.prepare()
    train(model, task.data, STEPS, task.batch, method.learning_rate, seed, optimizer.step)
    finished = optimizer.finalize()
    found = score(finished, task.data)._replace(seconds=time.process_time() - start)
    if quantizes and library == "corepress":
        return found._replace(agreement=agreement(finished, task.data[2]))
    return found


def score(model: nn.Module, data: mnist.Data) -> Score:
    found, labels = logits(model, data[2]), data[3]
    accuracy = 100 * float((found.argmax(1) == labels).double().mean())
    return Score(accuracy, float(nn.functional.cross_entropy(found, labels)))


@torch.no_grad()
def logits(model: nn.Module, images: Tensor) -> Tensor:
    model.eval()
    return torch.cat([model(batch) for batch in images.split(AT_ONCE)])


def agreement(model: nn.Module, images: Tensor) -> float:
    """How many images, in %, the converted model puts into the class that the model itself does."""
    import coremltools as ct

    size = math.gcd(len(images), AT_ONCE)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        ct.convert(
            torch.jit.trace(model, images[:size]),
            inputs=[ct.TensorType("image", (size, *images.shape[1:]))],
            outputs=[ct.TensorType("logits")],
            minimum_deployment_target=ct.target.iOS18,
            skip_model_load=True,
        ).save(f"{folder}/model.mlpackage")
        program = load_program(Path(folder, "model.mlpackage"))
        found = [program.predict({"image": batch.numpy()})["logits"].argmax(1) for batch in images.split(size)]
    return 100 * float((np.concatenate(found) == logits(model, images).argmax(1).numpy()).mean())


def cells(method: Method, pairs: list[list[Score]]) -> list[str]:
    own, peer = ([pair[side] for pair in pairs] for side in range(2))
    ahead = [one.accuracy - other.accuracy for one, other in pairs]
    error = statistics.stdev(ahead) / math.sqrt(len(ahead)) if len(ahead) > 1 else 0.0
    agreements = [each.agreement for each in own if each.agreement is not None]
    return [
        method.name,
        *(spread([each.accuracy for each in side]) for side in (own, peer)),
        f"{statistics.mean(ahead):+.2f} ± {error:.2f}",
        *(f"{statistics.mean(each.loss for each in side):.4f}" for side in (own, peer)),
        *(f"{statistics.mean(each.seconds for each in side):.1f}" for side in (own, peer)),
        f"{statistics.mean(agreements):.2f}" if agreements else "—",
    ]


def spread(values: list[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.2f} ± {deviation:.2f}"


def mean_loss(scores: list[Score]) -> str:
    return f"cross-entropy {statistics.mean(each.loss for each in scores):.4f}"


if __name__ == "__main__":
    sys.exit(main())
