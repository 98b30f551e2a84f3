from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import corepress.runtime.ops.recurrent  # noqa: F401 - fills the registry
from tests.runtime.oracle_ops import numbers, run, same
from tests.runtime.oracle_torch import converted

STEPS, BATCH, INPUT, HIDDEN = 5, 3, 4, 2
ACTIVATIONS = {
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "relu": lambda x: np.maximum(x, 0),
    "linear": lambda x: x,
    "scaled_tanh": np.tanh,
    "hard_sigmoid": lambda x: np.clip(0.2 * x + 0.5, 0, 1),
}


def parameters(gates, dtype="float32", peephole=0, seed=0):
    """Weights and biases for a number of gates."""
    made = {
        "weight_ih": numbers(seed + 1, (gates * HIDDEN, INPUT), dtype, -1, 1),
        "weight_hh": numbers(seed + 2, (gates * HIDDEN, HIDDEN), dtype, -1, 1),
        "bias": numbers(seed + 3, (gates * HIDDEN,), dtype, -1, 1),
    }
    return made | ({"peephole": numbers(seed + 4, (peephole * HIDDEN,), dtype, -1, 1)} if peephole else {})


def inputs(dtype="float32", states=1, width=HIDDEN):
    state = [numbers(11 + i, (BATCH, width), dtype) for i in range(states)]
    return {
        "x": numbers(10, (STEPS, BATCH, INPUT), dtype),
        **dict(zip(("initial_h", "initial_c"), state, strict=False)),
    }


def slow_lstm(x, initial_h, initial_c, weight_ih, weight_hh, bias, names, peephole=None, clip=None):
    gate, cell, act = (ACTIVATIONS[name] for name in names)
    wi, wf, wo, wz = np.split(weight_ih.astype(np.float64), 4)
    ui, uf, uo, uz = np.split(weight_hh.astype(np.float64), 4)
    bi, bf, bo, bz = np.split(bias, 4)
    pi, pf, po = np.split(np.zeros(3 * HIDDEN) if peephole is None else peephole, 3)
    h, c, outputs = initial_h, initial_c, []
    for step in x:
        i = gate(step @ wi.T + h @ ui.T + bi + c * pi)
        f = gate(step @ wf.T + h @ uf.T + bf + c * pf)
        z = cell(step @ wz.T + h @ uz.T + bz)
        c = f * c + i * z
        if clip is not None:
            c = np.clip(c, -clip, clip)
        o = gate(step @ wo.T + h @ uo.T + bo + c * po)
        h = o * act(c)
        outputs.append(h)
    return np.stack(outputs), h, c


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(
    "names, peephole, clip",
    [
        (("sigmoid", "tanh", "tanh"), 0, None),
        (("sigmoid", "tanh", "relu"), 3, None),
        (("hard_sigmoid", "scaled_tanh", "linear"), 3, 0.2),
        (("tanh", "relu", "sigmoid"), 0, 0.01),
    ],
)
def test_lstm_by_its_definition(names, peephole, clip, dtype):
    given, weights = inputs(dtype, 2), parameters(4, dtype, peephole)
    kinds = dict(zip(("recurrent_activation", "cell_activation", "activation"), names, strict=True))
    y, h, c = slow_lstm(**given, **weights, names=names, clip=clip)
    back = slow_lstm(**given | {"x": given["x"][::-1]}, **weights, names=names, clip=clip)
    common = {**given, **weights, **kinds, "clip": clip}
    near = 1e-4 if dtype == "float32" else 1e-2
    for sequence, direction, expected in (
        (True, "forward", (y, h, c)),
        (False, "forward", (h[None], h, c)),
        # In the order of computation, so the last output is the final state.
        (True, "reverse", back),
        (False, "reverse", (back[1][None], *back[1:])),
    ):
        ours = run("lstm", **common, output_sequence=sequence, direction=direction)
        same(ours, tuple(part.astype(dtype) for part in expected), near, near)


@pytest.mark.parametrize("peephole, clip", [(0, None), (3, 0.3)])
def test_bidirectional_lstm_by_its_definition(peephole, clip):
    given, weights = inputs(states=2, width=2 * HIDDEN), parameters(4, peephole=peephole)
    back = parameters(4, peephole=peephole, seed=20)
    names = ("sigmoid", "tanh", "tanh")
    halves = [
        {"initial_h": given["initial_h"][:, s], "initial_c": given["initial_c"][:, s]} for s in np.s_[:HIDDEN, HIDDEN:]
    ]
    there = slow_lstm(given["x"], **halves[0], **weights, names=names, clip=clip)
    here = slow_lstm(given["x"][::-1], **halves[1], **back, names=names, clip=clip)
    y = np.concatenate([there[0], here[0][::-1]], -1)
    h, c = (np.concatenate([there[i], here[i]], -1) for i in (1, 2))
    common = {**given, **weights, **{f"{key}_back": value for key, value in back.items()}}
    common |= {"direction": "bidirectional", "clip": clip}
    for sequence, outputs in ((True, y), (False, h[None])):
        ours = run("lstm", **common, output_sequence=sequence)
        same(ours, tuple(part.astype(np.float32) for part in (outputs, h, c)), 1e-4, 1e-5)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_lstm_is_pytorchs(bidirectional, bias):
    module = nn.LSTM(INPUT, HIDDEN, bidirectional=bidirectional, bias=bias)
    directions = 1 + bidirectional
    x, h, c = torch.randn(STEPS, BATCH, INPUT), *torch.randn(2, directions, BATCH, HIDDEN)

    def function(x, h, c):
        y, (h, c) = module(x, (h, c))
        return y, h, c

    module.requires_grad_(False)
    arguments = converted("lstm", function, x, h, c)
    y, *last = function(x, h, c)
    h, c, *last = (state.transpose(0, 1).flatten(1).numpy() for state in (h, c, *last))
    ours = run("lstm", x=x.numpy(), initial_h=h, initial_c=c, **arguments)
    same(ours, (y.numpy(), *last), 1e-4, 1e-5)


def slow_gru(x, initial_h, weight_ih, weight_hh, bias, names, input_bias=0, reset_after=False):
    gate, act = (ACTIVATIONS[name] for name in names)
    wr, wo, wz = np.split(weight_ih.astype(np.float64), 3)
    ur, uo, uz = np.split(weight_hh.astype(np.float64), 3)
    br, bo, bz = np.split(bias, 3)
    cr, co, cz = np.split(input_bias + np.zeros(3 * HIDDEN), 3)
    h, outputs = initial_h, []
    for step in x:
        r = gate(step @ wr.T + cr + h @ ur.T + br)
        z = gate(step @ wz.T + cz + h @ uz.T + bz)
        inner = r * (h @ uo.T + bo) if reset_after else (r * h) @ uo.T + bo
        h = (1 - z) * act(step @ wo.T + co + inner) + z * h
        outputs.append(h)
    return np.stack(outputs), h


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("names", [("sigmoid", "tanh"), ("tanh", "sigmoid"), ("hard_sigmoid", "relu")])
@pytest.mark.parametrize("more", [{}, {"reset_after": True}, {"input_bias": numbers(7, (3 * HIDDEN,))}])
def test_gru_by_its_definition(more, names, dtype):
    more = {key: value.astype(dtype) if key == "input_bias" else value for key, value in more.items()}
    given, weights = inputs(dtype), parameters(3, dtype)
    common = {**given, **weights, **more, "recurrent_activation": names[0], "activation": names[1]}
    near = 1e-4 if dtype == "float32" else 1e-2
    for direction, x in (("forward", given["x"]), ("reverse", given["x"][::-1])):
        y, h = slow_gru(**given | {"x": x}, **weights, **more, names=names)
        for sequence, outputs in ((True, y), (False, h[None])):
            ours = run("gru", **common, direction=direction, output_sequence=sequence)
            same(ours, (outputs.astype(dtype), h.astype(dtype)), near, near)


def test_gru_is_pytorchs():
    module = nn.GRU(INPUT, HIDDEN).requires_grad_(False)
    x, h = torch.randn(STEPS, BATCH, INPUT), torch.randn(1, BATCH, HIDDEN)

    def reordered(parameter):
        r, z, o = parameter.chunk(3)
        return torch.cat([r, o, z]).numpy()

    y, last = module(x, h)
    ours = run(
        "gru",
        x=x.numpy(),
        initial_h=h[0].numpy(),
        weight_ih=reordered(module.weight_ih_l0),
        weight_hh=reordered(module.weight_hh_l0),
        input_bias=reordered(module.bias_ih_l0),
        bias=reordered(module.bias_hh_l0),
        reset_after=True,
        output_sequence=True,
    )
    same(ours, (y.numpy(), last[0].numpy()), 1e-4, 1e-5)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("bias", [True, False])
def test_rnn_is_pytorchs(bias, activation):
    module = nn.RNN(INPUT, HIDDEN, bias=bias, nonlinearity=activation).requires_grad_(False)
    x, h = torch.randn(STEPS, BATCH, INPUT), torch.randn(1, BATCH, HIDDEN)
    arguments = converted("rnn", module, x, h)
    for direction, seen in (("forward", x), ("reverse", x.flip(0))):
        y, last = module(seen, h)
        given = {"x": x.numpy(), "initial_h": h[0].numpy(), **arguments, "direction": direction}
        same(run("rnn", **given), (y.numpy(), last[0].numpy()), 1e-4, 1e-5)
        given["output_sequence"] = False
        same(run("rnn", **given), (y[-1:].numpy(), last[0].numpy()), 1e-4, 1e-5)


@pytest.mark.parametrize("activation", [*ACTIVATIONS, "sigmoid_hard", "Tanh"])
def test_activations_of_rnn(activation):
    given, weights = inputs("float16"), parameters(1, "float16")
    act = ACTIVATIONS[{"sigmoid_hard": "hard_sigmoid"}.get(activation, activation.lower())]
    h, outputs = given["initial_h"].astype(np.float64), []
    for step in given["x"]:
        h = act(step @ weights["weight_ih"].T + h @ weights["weight_hh"].T + weights["bias"])
        outputs.append(h)
    y, last = run("rnn", **given, **weights, activation=activation, output_sequence=True)
    same((y, last), (np.float16(outputs), np.float16(h)), 1e-2, 2e-2)


def test_defaults():
    given = inputs(states=2)
    for kind, gates in (("lstm", 4), ("gru", 3), ("rnn", 1)):
        weights = parameters(gates)
        if kind != "lstm":
            given.pop("initial_c", None)
        ours = run(kind, **given, **weights)
        assert ours[0].shape == (1, BATCH, HIDDEN)
        zero = weights | {"bias": np.zeros_like(weights["bias"])}
        del weights["bias"]
        same(run(kind, **given, **weights), run(kind, **given, **zero))


def test_errors():
    given, weights = inputs(states=2), parameters(4)
    with pytest.raises(ValueError, match="needs weight_ih_back"):
        run("lstm", **given, **weights, direction="bidirectional")
    with pytest.raises(ValueError, match="direction 'up' is unknown"):
        run("lstm", **given, **weights, direction="up")
    with pytest.raises(ValueError, match="activation 'step' is unknown"):
        run("lstm", **given, **weights, activation="step")
