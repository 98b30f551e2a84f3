"""Changes of texts (JSON, YAML) and of bytes."""

from __future__ import annotations

import random
import re

_TOKENS = (
    "", "null", "~", "-1", "0", "1e999", ".nan", ".inf", "9" * 40, "[]", "{}", "[[[[[[", "{a: {a: {a: {", "true",
    "*a", "&a [*a]", "&a x", "!!python/object/apply:os.getcwd []", "!!binary x", "<<: *a", "? x", "- - - -", "'", '"',
    "\t", "\0", "\ufeff", "..", "/etc/passwd", "../../x", "x" * 3000, "skip", "*", "[b]", "conv", "2:4", "é", "|", ">",
    "---", "...",
)  # fmt: skip


def mutate_text(text: str, rng: random.Random) -> str:
    """A few changes of lines, words and characters."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        kind, lines = rng.randrange(6), text.split("\n")
        at = rng.randrange(len(lines))
        if kind == 0:
            lines.insert(rng.randrange(len(lines) + 1), lines[at])
        elif kind == 1:
            del lines[at]
        elif kind == 2:
            lines[at] = " " * rng.randrange(5) + lines[at].strip()
        words = list(re.finditer(r"[\w.*/@-]+", text))
        if kind < 3:
            text = "\n".join(lines)
        elif kind == 3 and words:
            word = rng.choice(words)
            text = text[: word.start()] + rng.choice(_TOKENS) + text[word.end() :]
        elif kind == 4 and len(words) > 1:
            one, other = rng.sample(words, 2)
            text = text[: one.start()] + other.group() + text[one.end() :]
        else:
            where = rng.randrange(len(text) + 1)
            text = text[:where] + rng.choice((*"{}[],:#&*!|>'\"%@`\\\n ", *_TOKENS)) + text[where + rng.randrange(3) :]
    return text


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """A few flips, cuts and numbers."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at, kind = rng.randrange(len(changed) or 1), rng.randrange(4)
        if kind == 0:
            changed[at : at + 1] = bytes([rng.randrange(256)])
        elif kind == 1:
            number = rng.choice((0, 1, 1 << 31, (1 << 32) - 1, (1 << 63) - 1, (1 << 64) - 1))
            changed[at : at + 8] = number.to_bytes(8, "little")
        elif kind == 2:
            del changed[at : at + rng.randrange(1, 40)]
        else:
            changed[at:at] = changed[at : at + rng.randrange(1, 40)]
    return bytes(changed)
