"""Which values of a program can be multiplied by an orthogonal matrix along their last axis, and the weights around.

Nothing is guessed from names: the values are followed from a table of embeddings on, through operations that are known
to give the turned result for a turned input. Any other operation that reads one ends the attempt, by its name.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from corepress.errors import UnsupportedError
from corepress.formats.mlprogram import Model, Weight
from corepress.formats.mlprogram.program import Node
from corepress.formats.mlprogram.values import read_tensor, tensor_type
from corepress.formats.mlprogram.weight import find_weights

# What changes neither the last axis nor the numbers along it, if it keeps its length.
_KEEPS = frozenset({"cast", "expand_dims", "identity", "reshape", "squeeze"})
_SQUARES = frozenset({"reduce_mean", "reduce_sum"})


@dataclass(frozen=True)
class Role:
    """A weight is multiplied by the rotation along an axis."""

    axis: int


@dataclass(eq=False)
class Gain:
    """A product with the gains of a norm, which are its `arguments`; the weights that read it, by what they share.
    `shift`: what a norm adds behind its gains, if it does both."""

    node: Node
    weight: Weight
    arguments: list[str]
    shift: Weight | None = None
    readers: list[tuple[Any, Role]] = field(default_factory=list)


class Stream:
    """The values that are turned, and what has to be done with the weights around them."""

    def __init__(self, model: Model, everything: list[Node]):
        self.width = 0
        # Whether a norm subtracts the mean: then the rotation must leave the mean of all numbers as it is.
        self.means = False
        self.roles: dict[Any, set[Role]] = {}
        self.weights: dict[Any, list[Weight]] = {}
        self.gains: dict[str, Gain] = {}
        self._model = model
        self._seen: set[tuple[int, int]] = set()
        self._covered: set[tuple[int, str]] = set()
        self._held: dict[tuple[int, str], Weight] = {}
        for weight in find_weights(model, everything):
            self.weights.setdefault(weight.key, []).append(weight)
            for node, argument in _readers(weight):
                self._held[id(node), argument] = weight

    def held(self, node: Node, argument: str) -> Weight | None:
        """The dense constant that an operation reads, with its floating-point numbers."""
        found = self._held.get((id(node), argument))
        return found if found is not None and found.dtype in ("float16", "float32") else None

    def needed(self, node: Node, argument: str) -> Weight:
        found = self.held(node, argument)
        if found is None or found.compression:
            raise UnsupportedError(f"{node}: its {argument} is no dense constant, so that no rotation can go into it")
        return found

    def follow(self, table: Node) -> None:
        """All that is connected with what a table gives."""
        self.width = self.needed(table, "x").shape[-1]
        waiting = [(table, 0)]
        while waiting:
            place = waiting.pop()
            if (id(place[0]), place[1]) in self._seen:
                continue
            self._seen.add((id(place[0]), place[1]))
            waiting += self._made(place[0])
            for use in place[0].uses:
                if use.output == place[1]:
                    if use.node is None:
                        raise UnsupportedError(f"{place[0]}: what would be rotated is an output of the model")
                    waiting += self._read(use.node, use.argument)

    def check(self) -> None:
        """Raise UnsupportedError if anything else reads one of the weights."""
        keys = {*self.roles, *(key for gain in self.gains.values() for key in (gain.weight.key, *dict(gain.readers)))}
        shifts = [gain.shift.key for gain in self.gains.values() if gain.shift is not None]
        if twice := [key for key in shifts if shifts.count(key) > 1]:
            raise UnsupportedError(
                f"several norms add {self.weights[twice[0]][0].name!r}, each behind gains of its own"
            )
        keys.update(shifts)
        for weight in (weight for key in keys for weight in self.weights[key]):
            for node, argument in _readers(weight):
                if (id(node), argument) not in self._covered:
                    raise UnsupportedError(f"{node} reads {weight.name!r}, too, and not what would be rotated")

    def _made(self, node: Node) -> Iterator[tuple[Node, int]]:
        """Let what computes a value turn it."""
        if node.type == "linear":
            self._rotated(node, "weight", 0)
            if node.operand("bias") is not None and self.needed(node, "bias").dense().any():
                self._rotated(node, "bias", 0)  # zeros stay zeros, and layers without a bias share them
        elif node.type == "matmul" and self.held(node, "y") is not None:
            self._rotated(node, "y", -2 if self._flag(node, "transpose_y") else -1)
        elif node.type == "gather" and self.held(node, "x") is not None and self._values(node, "axis", 0) == [0]:
            self._rotated(node, "x", -1)
        elif node.type in _KEEPS:
            yield self._computed(node, "x")
        elif node.type == "add":
            for argument in "xy":
                if self.held(node, argument) is not None:
                    self._rotated(node, argument, -1)
                else:
                    yield self._computed(node, argument)
        elif node.type in ("mul", "real_div"):
            scaled = [argument for argument in "xy" if not self._is_scalar(node, argument)]
            if len(scaled) != 1 or (node.type == "real_div" and scaled != ["x"]):
                raise UnsupportedError(f"{node} makes what would be rotated of what can't be")
            yield self._computed(node, scaled[0])
        else:
            raise UnsupportedError(f"{node} makes what would be rotated, and can't take a rotation")

    def _read(self, node: Node, argument: str) -> Iterator[tuple[Node, int]]:
        """What an operation makes of a turned value."""
        kind = node.type
        same = [other for other in "xy" if other != argument and other in node.operands]
        if kind == "linear" and argument == "x":
            self._rotated(node, "weight", 1)
        elif kind == "matmul" and argument == "x" and self.held(node, "y") is not None:
            self._rotated(node, "y", -1 if self._flag(node, "transpose_y") else -2)
        elif kind == "add" or (kind in _KEEPS and _shape(node)[-1:] == (self.width,)):
            yield node, 0
        elif kind == "square" or (kind == "mul" and self._both(node)) or (kind == "pow" and argument == "x"):
            self._squares(node)
        elif kind == "abs":
            self._largest(node)
        elif kind == "reduce_l2_norm" and self._over_last(node):
            pass
        elif kind == "layer_norm" and argument == "x":
            self._layer_norm(node)
        elif kind == "mul" and (gain := self.held(node, same[0])) is not None and gain.shape[-1:] == (self.width,):
            self._gained(node, gain)
        elif (kind == "mul" or (kind == "real_div" and argument == "x")) and self._is_scalar(node, same[0]):
            yield node, 0
        else:
            raise UnsupportedError(f"the values between the layers can't be rotated: {node} reads them one by one")

    def _squares(self, node: Node) -> None:
        """Squares are summed over the last axis whole, so that a rotation can't be seen."""
        if node.type == "pow" and self._values(node, "y", 0) != [2]:
            raise UnsupportedError(f"{node}: no other power than the second stays the same")
        for use in node.uses:
            if use.node is not None and use.node.type == "cast":
                self._squares(use.node)
            elif use.node is None or use.node.type not in _SQUARES or not self._over_last(use.node):
                raise UnsupportedError(f"{node}: its squares are not summed over the last axis alone")

    def _largest(self, node: Node) -> None:
        """A norm of x / max|x|, as coremltools writes it against overflow: the maximum cancels out but in epsilon."""
        peaks = [use.node for use in node.uses]
        peak = peaks[0] if len(peaks) == 1 else None
        if peak is None or peak.type != "reduce_max" or not self._over_last(peak):
            raise UnsupportedError(f"{node}: of magnitudes only the largest, as part of a norm, is known to cancel out")
        for use in peak.uses:
            reader = use.node
            if reader is not None and reader.type == "real_div" and use.argument == "y":
                fits = all(other.node is not None and other.node.type == "square" for other in reader.uses)
            else:
                root = (
                    None if reader is None or reader.type != "mul" else reader.operand("xy".replace(use.argument, ""))
                )
                fits = root is not None and _made_by(root.node, "sqrt", "add", "reduce_mean", "square", "real_div")
            if not fits:
                raise UnsupportedError(f"{reader or peak}: it reads the largest magnitude, and is no part of a norm")

    def _over_last(self, node: Node) -> bool:
        operand = node.operand("x")
        rank = 0 if operand is None or operand.node is None else len(_shape(operand.node, operand.output))
        return rank > 0 and [axis % rank for axis in self._values(node, "axes", None)] == [rank - 1]

    def _layer_norm(self, node: Node) -> None:
        """A norm that subtracts the mean, multiplies with gains and adds a shift."""
        gain, shift = (self.held(node, argument) for argument in ("gamma", "beta"))
        if not self._over_last(node) or gain is None:
            raise UnsupportedError(f"{node}: its gains are no constants for the last axis")
        if shift is not None and not shift.dense().any():
            shift = None
        self.means = True
        self._gained(node, gain, shift)

    def _gained(self, node: Node, weight: Weight, shift: Weight | None = None) -> None:
        """The weights that read a product with gains take these up, and the rotation behind them."""
        if weight.size != self.width:
            raise UnsupportedError(f"{node}: gains of the shape {weight.shape} are no vector")
        name = f"{node.function}/{node.op.outputs[0].name}"
        if name in self.gains:
            return
        own = [argument for argument in ("x", "y", "gamma") if self.held(node, argument) is weight]
        gain = self.gains[name] = Gain(node, weight, own, shift)
        if shift is not None:
            self._covered.add((id(node), "beta"))
        self._covered.update((id(node), argument) for argument in own)
        waiting = [node]
        while waiting:
            at = waiting.pop()
            for use in at.uses:
                reader = use.node
                if reader is not None and reader.type == "cast":
                    waiting.append(reader)
                elif reader is not None and reader.type == "linear" and use.argument == "x":
                    gain.readers.append(self._take(reader, "weight", 1))
                elif reader is not None and reader.type == "matmul" and use.argument == "x":
                    gain.readers.append(self._take(reader, "y", -1 if self._flag(reader, "transpose_y") else -2))
                else:
                    raise UnsupportedError(f"{reader or node} reads a product with gains, and is none with a weight")

    def _take(self, node: Node, argument: str, axis: int) -> tuple[Any, Role]:
        """The weight that an operation reads, by what it shares, and what is to be done with it."""
        weight = self.needed(node, argument)
        self._covered.add((id(node), argument))
        role = Role(axis % len(weight.shape))
        if weight.shape[role.axis] != self.width:
            raise UnsupportedError(f"{node}: {weight.name!r} has no axis of {self.width} where it would be rotated")
        return weight.key, role

    def _rotated(self, node: Node, argument: str, axis: int) -> None:
        key, role = self._take(node, argument, axis)
        self.roles.setdefault(key, set()).add(role)

    def _computed(self, node: Node, argument: str) -> tuple[Node, int]:
        operand = node.operand(argument)
        if operand is None or operand.node is None:
            raise UnsupportedError(f"{node}: what would be rotated comes from outside")
        return operand.node, operand.output

    def _is_scalar(self, node: Node, argument: str) -> bool:
        """Whether an operand has one number for the whole last axis."""
        operand = node.operand(argument)
        if operand is None:
            return False
        if operand.node is not None:
            return _shape(operand.node, operand.output)[-1:] in ((), (1,))
        kind = None if operand.value is None else tensor_type(operand.value)
        return kind is not None and kind[1][-1:] in ((), (1,))

    def _both(self, node: Node) -> bool:
        x, y = node.operand("x"), node.operand("y")
        return x is not None and y is not None and x.node is not None and (x.node, x.output) == (y.node, y.output)

    def _flag(self, node: Node, argument: str) -> bool:
        return bool(self._values(node, argument, 0)[0])

    def _values(self, node: Node, argument: str, default: int | None) -> list[float]:
        """The numbers of a constant argument."""
        operand = node.operand(argument)
        if operand is not None and operand.node is not None and operand.node.is_const:
            operand = operand.node.operand("val")
        if operand is None or operand.value is None:
            return [] if default is None else [default]
        return [float(number) for number in np.ravel(read_tensor(operand.value, self._model, str(node)))]


def _readers(weight: Weight) -> list[tuple[Node, str]]:
    if weight.argument is not None:
        return [(weight.node, weight.argument)]
    return [(use.node, use.argument) for use in weight.node.uses if use.node is not None]


def _made_by(node: Node | None, *kinds: str) -> bool:
    """Whether a chain of operations of these kinds makes a value, the last one first, each the first operand."""
    for kind in kinds:
        if node is None or node.type != kind:
            return False
        operand = node.operand("x")
        node = None if operand is None else operand.node
    return True


def _shape(node: Node, output: int = 0) -> tuple[int, ...]:
    return tuple(d.constant.size for d in node.op.outputs[output].type.tensorType.dimensions)
