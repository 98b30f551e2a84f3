"""What a model holds that is valid, but of which somebody reported that a device gets it wrong, or is slow with it.

- `weights.py`, `programs.py` and `networks.py` hold the rules: about the form of a weight, a function of an ML program,
  a neural network. Each is an entry in a table, with the function that finds the places.
- `rule.py` says what a rule and a finding are, `rules.py` has all of them and asks those about weights, `outline.py`
  tells the form of a stored weight without reading its numbers.
- `check.py` is `corepress.lint`; `findings.py` is what it gives, `sarif.py` one way to write it.

`formats`, `targets`, `opsets` and `weights` may be imported, and `coreml.interop`, for models of coremltools. PyTorch
may not: rules look at models, and run none.

To add a rule: a thread or a page that can be cited; an entry in the table that fits, with a function that finds it; a
package that triggers it and one that does not in `tests/linting/test_rules.py`; `make docs` writes `docs/lint.md`.
"""

from corepress.linting.check import lint
from corepress.linting.findings import Findings
from corepress.linting.rule import Finding, Rule
from corepress.linting.rules import RULES, of_form

__all__ = ["RULES", "Finding", "Findings", "Rule", "lint", "of_form"]
