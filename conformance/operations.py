"""Lets corepress.runtime predict for coremltools' tests of MIL operations, which compare on a Mac only."""

from __future__ import annotations

from typing import Any

import coremltools as ct
import numpy as np
import torch
from coremltools.converters.mil import testing_utils

from corepress.errors import FormatError
from corepress.runtime import Program, load

# The tests believe that they run on this.
MACOS = (15, 2)
predictions = 0


def run_models_with_corepress() -> None:
    """What is imported from now on predicts by corepress."""
    torch.set_num_threads(1)
    ct.models.MLModel.predict = predict
    ct.models.MLModel.make_state = lambda model: program_of(model).make_state()
    testing_utils._IS_MACOS = True
    ct.models.utils._macos_version = lambda: MACOS


def predict(model: Any, data: dict[str, Any], state: Any = None) -> dict[str, Any]:
    """`MLModel.predict`: it gives no scalars, so a test expects one number to have the shape (1,); and what
    can't be computed is a RuntimeError of this wording."""
    global predictions
    predictions += 1
    try:
        found = program_of(model).predict(data, state)
    except FormatError as error:
        raise RuntimeError(f"Unable to compute the prediction using ML Program: {error}") from error
    return {name: np.reshape(value, 1) if np.ndim(value) == 0 else value for name, value in found.items()}


def program_of(model: Any) -> Program:
    """The model, loaded once."""
    if not hasattr(model, "corepress_program"):
        model.corepress_program = load(model.package_path)
    return model.corepress_program


def is_exact_program(item: Any) -> bool:
    """Whether a test is for no backend, or for programs in float32."""
    backend = item.callspec.params.get("backend") if hasattr(item, "callspec") else None
    if hasattr(backend, "precision"):
        backend = backend.backend, backend.precision
    return not isinstance(backend, tuple) or backend[:2] == ("mlprogram", "fp32")
