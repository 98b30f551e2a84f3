"""Recurrent layers, over [sequence, batch, features, 1, 1], with the operations of MIL.

Their weights come as one matrix for each gate; `STACKED` joins them, once, as the operations want them.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from corepress.runtime.networks.registry import STACKED, layer
from corepress.runtime.ops import recurrent

Weights = Mapping[str, NDArray[Any]]
Names = list[str]


def _stacked(weights: Weights, gates: Names, ending: str = "") -> dict[str, NDArray[Any]]:
    """The matrices and vectors of all gates, one below the other; those that are not there are left out."""
    kinds = {
        "weight_ih": "GateWeightMatrix",
        "weight_hh": "GateRecursionMatrix",
        "bias": "GateBiasVector",
        "peephole": "GatePeepholeVector",
    }
    found = {}
    for argument, kind in kinds.items():
        # The cell has no gate and no peephole.
        names = [f"{gate}{kind}{ending}".replace("InputGate", "Input") for gate in gates]
        parts = [weights[name] for name in names if name in weights]
        if parts:
            found[argument] = np.concatenate(parts)
    return found


def _gru(weights: Weights) -> dict[str, NDArray[Any]]:
    return _stacked(weights, ["reset", "output", "update"])


def _lstm(weights: Weights) -> dict[str, NDArray[Any]]:
    return _stacked(weights, ["input", "forget", "output", "blockInput"])


def _both_lstms(weights: Weights) -> dict[str, NDArray[Any]]:
    gates = ["input", "forget", "output", "blockInput"]
    back = _stacked(weights, gates, "[1]")
    return _stacked(weights, gates, "[0]") | {f"{name}_back": value for name, value in back.items()}


STACKED.update({"gru": _gru, "uniDirectionalLSTM": _lstm, "biDirectionalLSTM": _both_lstms})


def _state(given: Tensor | None, x: Tensor, weight_hh: Tensor) -> Tensor:
    """[batch, features]; zero if it is not given."""
    shape = (x.shape[1], weight_hh.shape[1])
    return x.new_zeros(shape) if given is None else given.reshape(shape)


def _direction(reverse: bool) -> str:
    return "reverse" if reverse else "forward"


def _as_blobs(results: tuple[Tensor, ...], outputs: int) -> Any:
    """[sequence, batch, features] and states [batch, features] in five dimensions; as many as the layer has."""
    blobs = tuple((y if y.dim() == 3 else y[None])[..., None, None] for y in results[:outputs])
    return blobs if outputs != 1 else blobs[0]


@layer
def simpleRecurrent(
    x: Tensor,
    h: Tensor | None = None,
    *,
    weightMatrix: Tensor,
    recursionMatrix: Tensor,
    biasVector: Tensor | None = None,
    activation: str,
    outputs: int,
    sequenceOutput: bool = False,
    hasBias: bool = False,
    reverseInput: bool = False,
) -> Any:
    results = recurrent.rnn(
        x.flatten(2), _state(h, x, recursionMatrix), weightMatrix, recursionMatrix,
        biasVector if hasBias else None, _direction(reverseInput), sequenceOutput, activation,
    )  # fmt: skip
    return _as_blobs(results, outputs)


@layer
def gru(
    x: Tensor,
    h: Tensor | None = None,
    *,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    activations: Names,
    outputs: int,
    sequenceOutput: bool = False,
    hasBiasVectors: bool = False,
    reverseInput: bool = False,
) -> Any:
    gate, activation = activations
    results = recurrent.gru(
        x.flatten(2), _state(h, x, weight_hh), weight_ih, weight_hh, bias if hasBiasVectors else None,
        _direction(reverseInput), sequenceOutput, gate, activation,
    )  # fmt: skip
    return _as_blobs(results, outputs)


def _run_lstm(
    x: Tensor,
    state: tuple[Tensor | None, Tensor | None],
    weights: tuple[Tensor, Tensor, Tensor | None, Tensor | None],
    activations: Names,
    params: SimpleNamespace,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    weight_ih, weight_hh, bias, peephole = weights
    if params.coupledInputAndForgetGate:
        raise ValueError("coupled input and forget gates are not supported")
    bias = bias if params.hasBiasVectors else None
    if params.forgetBias:
        one = x.new_zeros(4, weight_hh.shape[1])
        one[1] = 1
        bias = one.flatten() if bias is None else bias + one.flatten()
    h, c = (_state(part, x, weight_hh) for part in state)
    gate, cell, activation = activations
    return recurrent.lstm(
        x.flatten(2), h, c, weight_ih, weight_hh, bias, peephole if params.hasPeepholeVectors else None,
        direction=_direction(reverse), output_sequence=params.sequenceOutput, recurrent_activation=gate,
        cell_activation=cell, activation=activation, clip=params.cellClipThreshold or 50.0,
    )  # fmt: skip


@layer
def uniDirectionalLSTM(
    x: Tensor,
    h: Tensor | None = None,
    c: Tensor | None = None,
    *,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    peephole: Tensor | None = None,
    activations: Names,
    params: SimpleNamespace,
    outputs: int,
    reverseInput: bool = False,
) -> Any:
    weights = weight_ih, weight_hh, bias, peephole
    return _as_blobs(_run_lstm(x, (h, c), weights, activations, params, reverseInput), outputs)


@layer
def biDirectionalLSTM(
    x: Tensor,
    h: Tensor | None = None,
    c: Tensor | None = None,
    h_back: Tensor | None = None,
    c_back: Tensor | None = None,
    *,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    peephole: Tensor | None = None,
    weight_ih_back: Tensor,
    weight_hh_back: Tensor,
    bias_back: Tensor | None = None,
    peephole_back: Tensor | None = None,
    activationsForwardLSTM: Names,
    activationsBackwardLSTM: Names,
    params: SimpleNamespace,
    outputs: int,
) -> Any:
    forward, backward = (
        (weight_ih, weight_hh, bias, peephole),
        (weight_ih_back, weight_hh_back, bias_back, peephole_back),
    )
    there, *last = _run_lstm(x, (h, c), forward, activationsForwardLSTM, params, False)
    back, *first = _run_lstm(x, (h_back, c_back), backward, activationsBackwardLSTM, params, True)
    # In reverse the outputs stand in the order in which they were computed.
    return _as_blobs((torch.cat([there, back.flip(0)], -1), *last, *first), outputs)
