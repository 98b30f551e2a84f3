"""The errors that corepress raises on purpose; the command line prints their one sentence (`cli/guard.py`)."""

from __future__ import annotations


class CorepressError(Exception):
    """Bad input or an operation that can't be done: the message names what, why and what to do."""

    def __init__(self, message: str):
        # Names that come from a file may hold anything; the message stays one line.
        super().__init__("".join(c if c.isprintable() else " " for c in message))


class FormatError(CorepressError):
    """A file that is damaged, hostile or of a kind that corepress does not read."""


class ConfigError(CorepressError, ValueError):
    """A configuration that asks for something unknown or impossible."""


class Missed(CorepressError):
    """Everything worked, but the model misses what was asked of it, such as a least SNR."""
