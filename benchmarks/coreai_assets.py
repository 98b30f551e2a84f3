"""Core AI models compressed in place, beside `coreai_opt.coreai_utils`, Apple's library for that.

    python benchmarks/coreai_assets.py --peer-python /path/to/python [--blocks 7] [--rounds 1] [--only "k-means"]

The peer needs an interpreter that has coreai-opt (`pip install "coreai-opt[coreai]"`), which may be another one. A
transformer of width 768 is exported with random weights; 7 blocks are 50M parameters. Both load it, compress it and
save it, in turns. The table has the CPU seconds of all three, since wall-clock time depends on what else the machine
does (the peer's k-means runs in its own process: CPU seconds are the same, and are counted); how much faster the
compression alone is; and of what came of it the sum of squared differences of all weights, and the size.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

WIDTH = 768
# What is asked of both: of ours a function and its configuration, of the peer a function and its arguments.
GROUPS = {"granularity": "per_grouped_channel", "group_size": 16}
BLOCKS = {"granularity": "per_block", "block_size": 32}
JOBS: dict[str, tuple[str, dict[str, Any], str, dict[str, Any]]] = {
    "k-means, 4 bits": ("palettize", {"nbits": 4}, "palettize_weights", {"lut_dtype": None, "n_bits": 4}),
    "k-means, 4 bits, groups of 16": (
        *("palettize", {"nbits": 4, **GROUPS}),
        *("palettize_weights", {"lut_dtype": None, "n_bits": 4, **GROUPS}),
    ),
    "k-means, 6 bits": ("palettize", {"nbits": 6}, "palettize_weights", {"lut_dtype": None, "n_bits": 6}),
    "int4, blocks of 32": (
        *("quantize", {"dtype": "int4", **BLOCKS}),
        *("quantize_weights", {"dtype": "int4", **BLOCKS}),
    ),
    "int8 per channel": ("quantize", {"dtype": "int8"}, "quantize_weights", {"dtype": "int8"}),
    "prune 50 %": ("prune", {"target_sparsity": 0.5}, "sparsify_weights", {"target_sparsity": 0.5}),
}


def main() -> None:
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--blocks", type=int, default=7)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", default="")
    parser.add_argument("--serve", nargs=3, metavar=("JOB", "MODEL", "OUTPUT"), help="(used by itself)")
    asked = parser.parse_args()
    if asked.serve:
        job, model, output = asked.serve
        print(json.dumps(by_peer(job, Path(model), Path(output))))
        return
    with tempfile.TemporaryDirectory(prefix="corepress-") as folder:
        model = made(Path(folder) / "model.aimodel", asked.blocks)
        by_us("int8 per channel", made(Path(folder) / "small.aimodel", 1), Path(folder) / "warm.aimodel")
        print("| work | coreai-opt | corepress | faster | call alone | error, theirs / ours | MB, theirs / ours |")
        print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
        for job in (job for job in JOBS if asked.only in job):
            print(row(job, model, Path(folder), asked.peer_python, asked.rounds), flush=True)


def made(path: Path, blocks: int) -> Path:
    """A transformer of so many blocks with random weights, as coreai-torch converts one."""
    import coreai_torch
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
            self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
            self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

        def forward(self, x: Any) -> Any:
            y = self.first(x)
            weights = torch.softmax(self.query(y) @ self.key(y).transpose(-1, -2) / WIDTH**0.5, -1)
            x = x + self.out(weights @ self.value(y))
            return x + self.down(torch.relu(self.up(self.second(x))))

    torch.manual_seed(0)
    network = nn.Sequential(*(Block() for _ in range(blocks))).half().eval()
    for parameter in network.parameters():
        if parameter.dim() > 1:
            parameter.data = (torch.randn(parameter.shape) * 0.03).half()
    exported = torch.export.export(network, (torch.randn(1, 16, WIDTH).half(),))
    exported = exported.run_decompositions(coreai_torch.get_decomp_table())
    converter = coreai_torch.TorchConverter()
    with contextlib.redirect_stdout(io.StringIO()):
        converter.add_exported_program(exported, input_names=["x"], output_names=["y"]).to_coreai().save_asset(path)
    return path


def row(job: str, model: Path, folder: Path, python: str, rounds: int) -> str:
    """What both took for a job, and what came of it."""
    theirs, ours = folder / "theirs.aimodel", folder / "ours.aimodel"
    peer, own = [], []
    for _ in range(rounds):
        command = [python, str(Path(__file__).resolve()), "--serve", job, str(model), str(theirs)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peer.append(json.loads(done.stdout.strip().splitlines()[-1]))
        own.append(by_us(job, model, ours))
    all_theirs, all_ours = (statistics.median(one["all"] for one in taken) for taken in (peer, own))
    call = statistics.median(one["call"] for one in peer) / statistics.median(one["call"] for one in own)
    errors = [f"{squared_error(model, path):.6g}" for path in (theirs, ours)]
    sizes = [f"{sum(file.stat().st_size for file in path.iterdir()) / 1e6:.1f}" for path in (theirs, ours)]
    return (
        f"| {job} | {all_theirs:.1f} s | {all_ours:.2f} s | {all_theirs / all_ours:.0f}x | {call:.0f}x | "
        f"{' / '.join(errors)} | {' / '.join(sizes)} |"
    )


def timed(load: Callable[[], Any], call: Callable[[Any], Any], save: Callable[[Any], Any]) -> dict[str, float]:
    """CPU seconds of all three, and of the call alone."""
    begun = seconds()
    model = load()
    before = seconds()
    made = call(model)
    taken = seconds() - before
    save(made)
    return {"all": seconds() - begun, "call": taken}


def seconds() -> float:
    """CPU seconds of this process."""
    return time.process_time()


def by_us(job: str, model: Path, output: Path) -> dict[str, float]:
    """Load, compress and save with corepress."""
    import corepress as cto

    function, fields, _, _ = JOBS[job]
    name = {
        "palettize": ("palettize_weights", "OpPalettizerConfig"),
        "quantize": ("linear_quantize_weights", "OpLinearQuantizerConfig"),
        "prune": ("prune_weights", "OpMagnitudePrunerConfig"),
    }[function]
    config = cto.coreml.OptimizationConfig(getattr(cto.coreml, name[1])(weight_threshold=1024, **fields))
    return timed(
        lambda: cto.load(model),
        lambda loaded: getattr(cto.coreml, name[0])(loaded, config, spare_constants=True),
        lambda made: made.save(output, overwrite=True),
    )


def by_peer(job: str, model: Path, output: Path) -> dict[str, float]:
    """Load, compress and save with coreai-opt; in a process of its own."""
    import coreai_opt.coreai_utils as peer
    from coreai.authoring import AIModelAsset

    warnings.simplefilter("ignore")
    _, _, function, fields = JOBS[job]
    words: dict[str, Any] = dict(fields)
    if function == "palettize_weights":
        words["num_kmeans_workers"] = 1
    if "granularity" in words:
        words["granularity"] = peer.CompressionGranularity(words["granularity"])
    if "dtype" in words:
        words["dtype"] = peer.DType(words["dtype"])
    return timed(
        lambda: AIModelAsset.load(model).program,
        lambda program: getattr(peer, function)(program, weight_num_threshold=1024, **words),
        lambda program: program.save_asset(output),
    )


def squared_error(model: Path, small: Path) -> float:
    """Of all weights that either compresses, the sum of squared differences."""
    import corepress as cto

    before = {weight.name: weight for weight in cto.load(model).weights()}
    total = 0.0
    for weight in cto.load(small).weights():
        if weight.compression:
            difference = weight.dense().astype(np.float64) - before[weight.name].dense()
            total += float((difference**2).sum())
    return total


if __name__ == "__main__":
    main()
