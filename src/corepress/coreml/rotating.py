"""Rotation of what flows between the layers of a transformer, folded into the weights; no answer changes.

In some directions the numbers between layers are far larger than in others, and weights that write or read them have
heavy tails, which one table or one scale for a channel holds badly. A layer may as well write x R for an orthogonal
matrix R, if all that read it turn it back: a product with the weight W becomes one with W R. A norm without a mean
(RMSNorm) gives the same for x R, turned, since a rotation keeps lengths; its gains move into the weights that read it
first. One that subtracts the mean (LayerNorm) does so for a rotation that keeps the mean, R 1 = 1. (Ashkboos et al.
2024, "QuaRot", arXiv 2404.00456; Liu et al. 2024, "SpinQuant", arXiv 2405.16406, its R1.)

`coreml/stream.py` finds out which values can be turned.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corepress.coreml.interop import takes_any_model
from corepress.coreml.marks import spare
from corepress.coreml.rewrite import fresh, names_in_use, rewrite, sharing_store
from corepress.coreml.stream import Gain, Role, Stream
from corepress.engine import Skip
from corepress.errors import UnsupportedError
from corepress.formats.mlprogram import Model, Weight
from corepress.formats.mlprogram.constexpr import set_name, write_weight
from corepress.formats.mlprogram.model import DEFAULT_WEIGHT_FILE
from corepress.formats.mlprogram.program import edit, nodes
from corepress.formats.mlprogram.values import scalar
from corepress.formats.schema import Operation
from corepress.targets import by_opset

Array = NDArray[Any]
# Of the largest gain: with smaller ones, what a norm adds behind them would lose its digits.
_LEAST_GAIN = 1e-3


@takes_any_model
def rotate(mlmodel: Model, *, seed: int = 0) -> Model:
    """Turn what flows between the layers of a language model, so that its weights have shorter tails.

    The result answers the same, but for rounding, and takes the same room, but for one small matrix where a table of
    embeddings is the last layer, too. Compress it afterwards. It serves models with norms before their layers, be it
    RMSNorm, as in Llama, Qwen and SmolLM, or LayerNorm, as in GPT-2 and OPT. Where a norm divides by the largest number
    first, as coremltools 9 writes RMSNorm, that counts in its epsilon: answers then differ by parts of about epsilon
    times the width.

    Args:
        mlmodel: A path, a `corepress.Model` or an `MLModel` of coremltools; none of its weights compressed.
        seed: Of the signs of the rotation, which is a Hadamard matrix, or the product of one with a cosine transform
            where the width is no power of two.

    Returns:
        The result, of the same kind as the model (for a path: a `Model`).

    Raises:
        UnsupportedError: Where it is not certain that all answers stay; the sentence names the operation.

    Examples:
        >>> cto.coreml.rotate("model.mlpackage")
        Traceback (most recent call last):
        ...
        corepress.errors.UnsupportedError: no table of embeddings is looked up, where the values to rotate would begin
    """
    if mlmodel.core_ai:
        raise UnsupportedError(f"{mlmodel.path}: only packages can be rotated: rotate that which it was made of")
    result = mlmodel.copy()
    everything = nodes(result.spec)
    stream = Stream(result, everything)
    tables = [node for node in everything if node.type == "gather" and stream.held(node, "x") is not None]
    if not tables:
        raise UnsupportedError("no table of embeddings is looked up, where the values to rotate would begin")
    # Of several, that of words is the largest; all functions of a model look up in it.
    words = stream.needed(max(tables, key=lambda node: stream.needed(node, "x").size), "x").key
    for node in tables:
        if stream.needed(node, "x").key == words:
            stream.follow(node)
    stream.check()
    return _turned(result, stream, rotation(stream.width, seed, keeps_mean=stream.means))


def rotation(width: int, seed: int = 0, *, keeps_mean: bool = False) -> NDArray[np.float64]:
    """An orthogonal matrix in which every number is about as large: of Hadamard where the width allows it.

    `keeps_mean`: the sum of what it turns stays as it is, so that LayerNorm, too, gives the same, turned.
    """
    odd = width
    while odd % 2 == 0:
        odd //= 2
    hadamard = np.ones((1, 1))
    while len(hadamard) * odd < width:
        hadamard = np.block([[hadamard, hadamard], [hadamard, -hadamard]])
    # The cosine transform (DCT-II) of the odd factor.
    places = np.arange(odd)
    cosines = np.cos(np.pi * (places[None] + 0.5) * places[:, None] / odd) * np.sqrt(2 / odd)
    cosines[0] = np.sqrt(1 / odd)
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], width)
    plain: NDArray[np.float64] = np.kron(hadamard / np.sqrt(len(hadamard)), cosines)
    if keeps_mean:
        # Its first row is that of the mean. There, and back, with random signs of all other rows between.
        signs[0] = 1
        plain = plain.T @ (plain * signs[:, None])
    else:
        plain = plain * signs[:, None]
    return plain


@dataclass(frozen=True, eq=False)
class _Given:
    """Puts an array in the place of a weight; weights that share theirs get the same one, and go on sharing."""

    value: Array

    def __call__(self, weight: Weight) -> Array:
        return self.value


def _turned(model: Model, stream: Stream, turn: NDArray[np.float64]) -> Model:
    """The model with all weights of a stream rotated."""
    ways, mixed = _ways(stream)
    put: dict[tuple[str, str], _Given] = {}
    for key, (role, gain) in ways.items():
        first = stream.weights[key][0]
        whole = np.moveaxis(first.dense().astype(np.float64), role.axis, -1)
        if gain is not None:
            whole = whole * gain.weight.dense().astype(np.float64).reshape(-1)
            ones = _Given(np.ones_like(gain.weight.dense()))
            put |= {(weight.function, weight.output): ones for weight in stream.weights[gain.weight.key]}
            put |= _shifts(stream, gain, turn)
        value = _Given(np.ascontiguousarray(np.moveaxis(whole @ turn, -1, role.axis).astype(first.dtype)))
        put |= {(weight.function, weight.output): value for weight in stream.weights[key]}
    names = names_in_use(model)
    products = [(gain.node, _product(model, gain, turn, names[str(gain.node.function)])) for gain in mixed]
    spare(model, [(str(node.function), made[0].outputs[0].name) for node, made in products])
    replaced = {id(gain.node) for gain in mixed}
    vectors = [weight for gain in mixed for weight in (gain.weight, gain.shift) if weight is not None]
    held = {id(weight.node): weight.node for weight in vectors if weight.argument is None}
    unread = [node for node in held.values() if all(id(use.node) in replaced for use in node.uses)]
    edit([*products, *((node, []) for node in unread)])

    def choose(weight: Weight) -> _Given:
        if (weight.function, weight.output) not in put:
            raise Skip("it stays", quiet=True)
        return put[weight.function, weight.output]

    result = rewrite(model, choose)
    result.skipped = dict(model.skipped)
    # What is compressed afterwards is compared with the rotated weights.
    result.origin, result.changed = None, frozenset()
    return result


def _ways(stream: Stream) -> tuple[dict[Any, tuple[Role, Gain | None]], list[Gain]]:
    """What is done with each weight, and which gains goes into it; and the gains that go into none.

    A table of embeddings that is the last layer, too, can't take up the gains before that: it would no longer be the
    same table. Such gains become a product with a small matrix, which turns back, multiplies, and turns again.
    """
    shared = {
        gain.weight.key
        for gain in stream.gains.values()
        if any(stream.roles.get(key) for key, _ in gain.readers) or not gain.readers
    }
    ways: dict[Any, tuple[Role, Gain | None]] = {}
    mixed = []
    for gain in stream.gains.values():
        alone = gain.weight.key not in shared
        if not alone:
            mixed.append(gain)
        for key, role in gain.readers:
            if alone and ways.setdefault(key, (role, gain))[1] is not gain:
                raise UnsupportedError(f"{gain.node}: what reads its product reads other gains, too")
            if not alone:
                stream.roles.setdefault(key, set()).add(role)
    for key, roles in stream.roles.items():
        if len(roles) != 1 or key in ways:
            raise UnsupportedError(f"{stream.weights[key][0].name!r} would have to be rotated in two ways")
        ways[key] = next(iter(roles)), None
    return ways, mixed


def _shifts(stream: Stream, gain: Gain, turn: NDArray[np.float64]) -> dict[tuple[str, str], _Given]:
    """What a norm adds, now that its gains are in the weights behind it, and turned as what it adds it to."""
    if gain.shift is None:
        return {}
    gains, shift = (part.dense().astype(np.float64).reshape(-1) for part in (gain.weight, gain.shift))
    if np.abs(gains).min() < _LEAST_GAIN * np.abs(gains).max():
        raise UnsupportedError(f"{gain.node}: some of its gains are nearly zero, which nothing can be divided by")
    value = _Given(((shift / gains) @ turn).astype(gain.shift.dtype).reshape(gain.shift.shape))
    return {(weight.function, weight.output): value for weight in stream.weights[gain.shift.key]}


def _product(model: Model, gain: Gain, turn: NDArray[np.float64], taken: set[str]) -> list[Any]:
    """The product of turned values with gains, as one with a matrix; behind a norm that subtracts the mean, if it has
    done so itself."""
    node, gains = gain.node, gain.weight.dense()
    name = node.op.outputs[0].name
    generation = by_opset(node.function.opset).generation
    store = sharing_store(model, gain.weight.file or DEFAULT_WEIGHT_FILE, [])

    def constant(value: NDArray[np.float64], name: str) -> list[Any]:
        return write_weight(value.astype(gains.dtype), name, generation=generation, store=store)

    def operation(kind: str, output: str, **inputs: Any) -> Any:
        made = Operation(type=kind)
        made.outputs.add().CopyFrom(node.op.outputs[0])
        made.outputs[0].name = output
        made.attributes.add(key="name")
        set_name(made, node.name if output == name else output)
        for key, given in inputs.items():
            if isinstance(given, str):
                made.inputs.add(key=key).value.arguments.add(name=given)
            else:
                made.inputs.add(key=key).value.CopyFrom(given)
        return made

    matrix = fresh(f"{name}_rotated", taken)
    made = constant((turn.T * gains.astype(np.float64).reshape(-1)) @ turn, matrix)
    given: Any = next(entry.value for entry in node.op.inputs if entry.key in "xy" and entry.key not in gain.arguments)
    if node.type == "layer_norm":
        kept = {entry.key: entry.value for entry in node.op.inputs if entry.key not in ("gamma", "beta")}
        given = fresh(f"{name}_normed", taken)
        made.append(operation("layer_norm", given, **kept))
    flag = _value(scalar(False, "bool"))
    product = name if gain.shift is None else fresh(f"{name}_gained", taken)
    made.append(operation("matmul", product, x=given, y=matrix, transpose_x=flag, transpose_y=flag))
    if gain.shift is not None:
        shift = fresh(f"{name}_shift", taken)
        made += constant(gain.shift.dense().astype(np.float64).reshape(-1) @ turn, shift)
        made.append(operation("add", name, x=product, y=shift))
    return made


def _value(value: Any) -> Any:
    """An argument that holds a value."""
    argument = Operation().inputs.add().value
    argument.arguments.add().value.CopyFrom(value)
    return argument
