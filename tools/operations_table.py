"""Writes docs/operations.md from the table of operations and the runtime's registry."""

from __future__ import annotations

import textwrap
from collections import Counter
from pathlib import Path

import corepress.runtime.ops  # noqa: F401 - fills the registry
from corepress.opsets import BY_INTERPRETER, KNOWN, SYSTEMS
from corepress.runtime.registry import CORE_AI, OPERATIONS

PAGE = Path(__file__).parent.parent / "docs/operations.md"
INTRODUCTION = """# The operations that the runtime runs

Written by `make docs` from `corepress/opsets.py`. The operation sets are those of coremltools 9.0; one function serves
them all. "By the interpreter": control flow, states and compressed weights, which are no functions of tensors.

"""
CORE_AI_MODELS = """
## Of Core AI models

By Core AI's names, without what says only where an operation comes from (`broadcasting_`); the oracle of each is
Apple's own runtime. Besides: control flow, states, calls of other functions, and compressed constants. Missing are
above all complex numbers, images as such, and kernels of Metal.

"""


def status(name: str) -> str:
    """Whether, and by what, the runtime can run an operation."""
    if name in OPERATIONS:
        return "implemented"
    return "by the interpreter" if KNOWN[name].group in BY_INTERPRETER else "missing"


def page() -> str:
    """The whole page."""
    rows = [f"Operation | Group | {' | '.join(SYSTEMS)} | Status", " | ".join(["---"] * (len(SYSTEMS) + 3))]
    for name in sorted(KNOWN, key=lambda name: (KNOWN[name].group, name)):
        marks = ["x" if system in KNOWN[name].systems else "" for system in SYSTEMS]
        rows.append(" | ".join([f"`{name}`", KNOWN[name].group, *marks, status(name)]))
    counts = Counter(map(status, KNOWN))
    summary = ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))
    table = "".join(f"| {row} |\n" for row in rows)
    return f"{INTRODUCTION}{len(KNOWN)} operations: {summary}.\n\n{table}{CORE_AI_MODELS}{core_ai()}\n"


def core_ai() -> str:
    """The operations of Core AI's programs."""
    names = sorted(set(CORE_AI) - {"linear"})  # which only the view of a program has
    return "\n".join(textwrap.wrap(", ".join(f"`{name}`" for name in names) + ".", 120))


if __name__ == "__main__":
    PAGE.write_text(page())
    print(f"wrote {PAGE}")
