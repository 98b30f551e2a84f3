"""Recurrent layers: one step after the other over [sequence, batch, features].

Run in reverse, their outputs stay in the order in which they were computed: the last one is the final state. Only the
backward half of a bidirectional LSTM is turned back, to stand beside the forward one.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from corepress.runtime.registry import operation

Activation = Callable[[Tensor], Tensor]
State = tuple[Tensor, ...]


def _hard_sigmoid(x: Tensor) -> Tensor:
    return torch.clamp(0.2 * x + 0.5, 0, 1)


# Those with parameters have their defaults here.
_ACTIVATIONS: dict[str, Activation] = {
    "hard_sigmoid": _hard_sigmoid,
    "linear": lambda x: x,
    "relu": torch.relu,
    "scaled_tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "sigmoid_hard": _hard_sigmoid,
    "tanh": torch.tanh,
}


def _activation(name: str) -> Activation:
    if name.lower() not in _ACTIVATIONS:
        raise ValueError(f"activation {name!r} is unknown")
    return _ACTIVATIONS[name.lower()]


def _forward_in_time(x: Tensor, direction: str) -> Tensor:
    if direction not in ("forward", "reverse"):
        raise ValueError(f"direction {direction!r} is unknown")
    return x if direction == "forward" else x.flip(0)


def _scan(step: Callable[..., State], inputs: Tensor, state: State, *held: Tensor | None) -> tuple[Tensor, State]:
    """The first part of the state after each step, and the last state; `held`: what all steps read besides."""
    if isinstance(inputs.shape[0], torch.SymInt):
        return _loop(step, inputs, state, held)
    outputs = []
    for given in inputs:
        state = step(given, state, *held)
        outputs.append(state[0])
    return torch.stack(outputs), state


def _loop(
    step: Callable[..., State], inputs: Tensor, state: State, held: tuple[Tensor | None, ...]
) -> tuple[Tensor, State]:
    """The same of a length that only an input tells, in a program that is exported: a loop of that program, which may
    read nothing but what it is handed."""

    def goes_on(number: Tensor, outputs: Tensor, *tensors: Tensor) -> Tensor:
        return number < outputs.shape[0]

    def body(number: Tensor, outputs: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        given, rest = tensors[len(state)], iter(tensors[len(state) + 1 :])
        own = (None if one is None else next(rest) for one in held)
        found = step(given.index_select(0, number.view(1)).squeeze(0), tensors[: len(state)], *own)
        places = number.view(1, 1, 1).expand(1, *found[0].shape)
        return number + 1, outputs.scatter(0, places, found[0].unsqueeze(0)), *map(_own, found)

    begun = torch.tensor(0), inputs.new_zeros(inputs.shape[0], *state[0].shape), *map(_own, state)
    read = inputs, *(one for one in held if one is not None)
    _, outputs, *last = torch.ops.higher_order.while_loop(goes_on, body, begun, read)
    return outputs, tuple(last)


def _own(part: Tensor) -> Tensor:
    """With memory of its own, in one piece, as PyTorch wants what a loop hands on."""
    return part.clone(memory_format=torch.contiguous_format)


@operation
def rnn(
    x: Tensor,
    initial_h: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    direction: str = "forward",
    output_sequence: bool = False,
    activation: str = "tanh",
) -> tuple[Tensor, Tensor]:
    act = _activation(activation)

    def step(given: Tensor, state: State, weight_hh: Tensor) -> State:
        return (act(given + F.linear(state[0], weight_hh)),)

    outputs, (h,) = _scan(step, F.linear(_forward_in_time(x, direction), weight_ih, bias), (initial_h,), weight_hh)
    return outputs if output_sequence else h.unsqueeze(0), h


@operation
def gru(
    x: Tensor,
    initial_h: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    direction: str = "forward",
    output_sequence: bool = False,
    recurrent_activation: str = "sigmoid",
    activation: str = "tanh",
    reset_after: bool = False,
    input_bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The gates of weights and biases stand in the order reset, output, update.

    The reset gate acts on the state; with `reset_after` (iOS18, as in PyTorch) on its product with the weight plus
    `bias`, which is why the bias of the input is apart.
    """
    gate, act = _activation(recurrent_activation), _activation(activation)

    def step(given: Tensor, state: State, weight_hh: Tensor, bias: Tensor | None) -> State:
        weight_r, weight_o, weight_z = weight_hh.chunk(3)
        bias_r, bias_o, bias_z = (None, None, None) if bias is None else bias.chunk(3)
        given_r, given_o, given_z = given.chunk(3, -1)
        (h,) = state
        r = gate(given_r + F.linear(h, weight_r, bias_r))
        z = gate(given_z + F.linear(h, weight_z, bias_z))
        inner = r * F.linear(h, weight_o, bias_o) if reset_after else F.linear(r * h, weight_o, bias_o)
        return ((1 - z) * act(given_o + inner) + z * h,)

    inputs = F.linear(_forward_in_time(x, direction), weight_ih, input_bias)
    outputs, (h,) = _scan(step, inputs, (initial_h,), weight_hh, bias)
    return outputs if output_sequence else h.unsqueeze(0), h


@operation
def lstm(
    x: Tensor,
    initial_h: Tensor,
    initial_c: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    peephole: Tensor | None = None,
    weight_ih_back: Tensor | None = None,
    weight_hh_back: Tensor | None = None,
    bias_back: Tensor | None = None,
    peephole_back: Tensor | None = None,
    direction: str = "forward",
    output_sequence: bool = False,
    recurrent_activation: str = "sigmoid",
    cell_activation: str = "tanh",
    activation: str = "tanh",
    clip: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gates of weights and biases stand in the order input, forget, output, cell."""
    gate, cell, act = (_activation(name) for name in (recurrent_activation, cell_activation, activation))

    def run(
        x: Tensor, state: State, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor | None, peephole: Tensor | None
    ) -> tuple[Tensor, State]:
        def step(given: Tensor, state: State, weight_hh: Tensor, peephole: Tensor | None) -> State:
            h, c = state
            look_i, look_f, look_o = (None, None, None) if peephole is None else peephole.chunk(3)
            i, f, o, z = (given + F.linear(h, weight_hh)).chunk(4, -1)
            c = gate(_peep(f, look_f, c)) * c + gate(_peep(i, look_i, c)) * cell(z)
            if clip is not None:
                c = c.clamp(-clip, clip)
            return gate(_peep(o, look_o, c)) * act(c), c

        return _scan(step, F.linear(x, weight_ih, bias), state, weight_hh, peephole)

    if direction != "bidirectional":
        x = _forward_in_time(x, direction)
        outputs, (h, c) = run(x, (initial_h, initial_c), weight_ih, weight_hh, bias, peephole)
        return outputs if output_sequence else h.unsqueeze(0), h, c

    if weight_ih_back is None or weight_hh_back is None:
        raise ValueError("a bidirectional lstm needs weight_ih_back and weight_hh_back")
    (h_there, h_back), (c_there, c_back) = initial_h.chunk(2, -1), initial_c.chunk(2, -1)
    there, last = run(x, (h_there, c_there), weight_ih, weight_hh, bias, peephole)
    back, first = run(x.flip(0), (h_back, c_back), weight_ih_back, weight_hh_back, bias_back, peephole_back)
    h, c = (torch.cat(pair, -1) for pair in zip(last, first, strict=True))
    return torch.cat([there, back.flip(0)], -1) if output_sequence else h.unsqueeze(0), h, c


def _peep(given: Tensor, weight: Tensor | None, c: Tensor) -> Tensor:
    return given if weight is None else given + weight * c
