"""Run models with PyTorch, on CPU or GPU: `load(path).predict({name: array})`."""

from corepress.errors import importing

with importing("running models"):
    from corepress.runtime.load import load
    from corepress.runtime.program import Program
    from corepress.runtime.runnable import Runnable
    from corepress.runtime.stages.pipeline import Pipeline

__all__ = ["Pipeline", "Program", "Runnable", "load"]
