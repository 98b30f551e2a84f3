"""Run ML programs with PyTorch, on CPU or GPU: `load(path).predict({name: array})`."""

from corepress.runtime.program import Program, load

__all__ = ["Program", "load"]
