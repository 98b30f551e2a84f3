"""Run ML programs with PyTorch, on CPU or GPU: `load(path).predict({name: array})`."""

from corepress.runtime.load import load
from corepress.runtime.program import Program

__all__ = ["Program", "load"]
