"""The errors that corepress raises on purpose; the command line prints their one sentence (`cli/guard.py`)."""

from __future__ import annotations

_BEGINNING, _END = 500, 300


def one_line(message: str) -> str:
    """A message that can be printed: names that come from a file may hold anything, and be of any length."""
    if len(message) > _BEGINNING + _END:
        message = f"{message[:_BEGINNING]} ... {message[-_END:]}"
    return "".join(c if c.isprintable() else " " for c in message)


class CorepressError(Exception):
    """Bad input or an operation that can't be done: the message names what, why and what to do."""

    def __init__(self, message: str):
        super().__init__(one_line(message))


class FormatError(CorepressError):
    """A file that is damaged, hostile or of a kind that corepress does not read."""


class ConfigError(CorepressError, ValueError):
    """A configuration that asks for something unknown or impossible."""


class Missed(CorepressError):
    """Everything worked, but the model misses what was asked of it, such as a least SNR."""


def needs_torch(error: ModuleNotFoundError, what: str) -> Exception:
    """What to raise where importing a part failed: the same error, or for lack of PyTorch what to install."""
    if error.name != "torch":
        return error
    return CorepressError(f"{what} needs PyTorch: pip install 'corepress[torch]'")
