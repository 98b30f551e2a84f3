"""The version of corepress."""

__version__ = "0.2.0"
