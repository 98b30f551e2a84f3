"""What a model holds that is valid, but of which somebody reported that a device gets it wrong, or is slow with it.

- `weights.py`, `programs.py`, `constants.py` and `networks.py` hold the rules: about the form of a weight, the inputs,
  states and operations of an ML program (`function.py` is what rules see of it), its constants, a neural network. Each
  is an entry in a table, with the function that finds the places. `core_ai.py` holds those of Core AI models.
- `rule.py` says what a rule and a finding are, `rules.py` has all of them and asks those about weights, `outline.py`
  tells the form of a stored weight without reading its numbers.
- `stored.py` asks the rules about the weights of a model, `check.py` all of them: it is `corepress.lint`;
  `findings.py` is what it gives, `sarif.py` one way to write it.

`formats`, `targets`, `opsets` and `weights` may be imported, and `coreml.interop`, for models of coremltools. PyTorch
may not: rules look at models, and run none.

To add a rule: a thread or a page that can be cited; an entry in the table that fits, with a function that finds it; a
package that triggers it and one that does not in `tests/linting/made.py`; `make docs` writes `docs/lint.md`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from corepress.linting.check import lint as lint
    from corepress.linting.findings import Findings as Findings
    from corepress.linting.rule import Finding as Finding
    from corepress.linting.rule import Rule as Rule
    from corepress.linting.rules import RULES as RULES
    from corepress.linting.rules import of_form as of_form

__all__ = ["RULES", "Finding", "Findings", "Rule", "lint", "of_form"]

# On first use: commands that compress have a use for `stored` only.
_LAZY = {
    "Finding": "corepress.linting.rule",
    "Findings": "corepress.linting.findings",
    "RULES": "corepress.linting.rules",
    "Rule": "corepress.linting.rule",
    "lint": "corepress.linting.check",
    "of_form": "corepress.linting.rules",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'corepress.linting' has no attribute {name!r}")
