"""Changes of protobuf messages: fields set, cleared, repeated, and parts of other models put in their place."""

from __future__ import annotations

import random
from collections import defaultdict
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

_INTEGERS = (0, 1, -1, 2, 5, 16, 63, 64, 255, 65535, (1 << 31) - 1, -(1 << 31), 1 << 40, (1 << 63) - 1, -(1 << 63))
_FLOATS = (0.0, -1.0, 1e38, float("inf"), float("nan"))
_STRINGS = (
    "",
    "x",
    "const",
    "main",
    "CoreML5",
    "CoreML8",
    "CoreML99",
    "a/b",
    "../..",
    "\0",
    "é" * 40,
    "n" * 5000,
    "[b]",
)
_DEEPEST = 40
_KEPT = 200

Pool = dict[str, list[Any]]


def is_repeated(field: Any) -> bool:
    return bool(field.is_repeated if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED)


def pool(models: list[Any]) -> Pool:
    """All parts of some models by their type, from which changes take what fits, and all their texts."""
    found: Pool = defaultdict(list)
    for model in models:
        _collect(model, found, 0)
    return found


def _collect(message: Any, found: Pool, depth: int) -> None:
    kept = found[message.DESCRIPTOR.full_name]
    if len(kept) < _KEPT:
        kept.append(message)
    if depth > _DEEPEST:
        return
    for field, value in message.ListFields():
        values = value if is_repeated(field) else [value]
        for item in values:
            if field.type == FieldDescriptor.TYPE_MESSAGE:
                _collect(item, found, depth + 1)
            elif isinstance(item, str) and len(found["text"]) < 10 * _KEPT:
                found["text"].append(item)


def mutate(model: Any, parts: Pool, rng: random.Random) -> Any:
    """A copy with a few changes."""
    changed = type(model).FromString(model.SerializeToString())
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        message = changed
        for _ in range(_DEEPEST):
            inner = [field for field, _ in message.ListFields() if field.type == FieldDescriptor.TYPE_MESSAGE]
            if not inner or rng.random() < 0.12:
                break
            field = rng.choice(inner)
            value = getattr(message, field.name)
            message = rng.choice(value) if is_repeated(field) else value
        _change(message, rng.choice(message.DESCRIPTOR.fields), parts, rng)
    return changed


def _change(message: Any, field: Any, parts: Pool, rng: random.Random) -> None:
    if is_repeated(field):
        _change_items(getattr(message, field.name), field, parts, rng)
    elif rng.random() < 0.2:
        message.ClearField(field.name)
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        other = rng.choice(parts[field.message_type.full_name] or [None])
        if other is None or rng.random() < 0.2:
            getattr(message, field.name).SetInParent()
        else:
            getattr(message, field.name).CopyFrom(_copy(other))
    else:
        _assign(message, field, parts, rng)


def _change_items(items: Any, field: Any, parts: Pool, rng: random.Random) -> None:
    kind = rng.randrange(5)
    if kind == 0 and len(items):
        del items[rng.randrange(len(items))]
    elif kind == 1 and len(items) > 1:
        kept = list(items)
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            kept = [_copy(item) for item in kept]
        rng.shuffle(kept)
        del items[:]
        items.extend(kept)
    elif kind == 2:
        del items[:]
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        others = list(items) if kind == 3 and len(items) else parts[field.message_type.full_name]
        if others:
            items.append(_copy(rng.choice(others)))
    elif len(items):
        items.append(rng.choice(list(items)))


def _assign(message: Any, field: Any, parts: Pool, rng: random.Random) -> None:
    value: Any
    if field.type == FieldDescriptor.TYPE_STRING:
        value = rng.choice(_STRINGS if rng.random() < 0.4 else parts["text"] or _STRINGS)
    elif field.type == FieldDescriptor.TYPE_BYTES:
        old = getattr(message, field.name)
        value = rng.choice((b"", old[: len(old) // 2], old + old[:7], b"\x0a\x05ab", rng.randbytes(12)))
    elif field.type == FieldDescriptor.TYPE_BOOL:
        value = rng.random() < 0.5
    elif field.cpp_type in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        value = rng.choice(_FLOATS)
    else:
        old = getattr(message, field.name)
        value = rng.choice((*_INTEGERS, old + 1, old - 1, old * 2, old // 2))
    try:
        setattr(message, field.name, value)
    except (ValueError, TypeError):  # out of the field's range
        message.ClearField(field.name)


def _copy(message: Any) -> Any:
    return type(message).FromString(message.SerializeToString())
