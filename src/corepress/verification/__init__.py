"""Do two models answer the same?

`compare.py` runs both, `corepress.metrics` measures, `detections.py` pairs boxes, `evidence.py` says what the inputs
prove, `result.py` is the verdict. May import: `runtime`, `formats`, `metrics` and what lies below, but no face
(`coreml`, `torch`, `neural_network`): models are judged by what they answer, whoever made them.

To add a metric:

1. `metrics.py`: a line of `METRICS` and of the table above it, a field of `Row`, and what `Sums` adds up for it.
2. `cli/options.py`: its name in `Metric`.
3. `docs/verify.md` and `docs/cli.md`: a line of the table, and of the fields of `verify`.
4. `tests/test_metrics.py`: beside an oracle that was not written here.

To add a doubt about the evidence: a sentence that `Evidence.notes` yields, a line of `docs/verify.md`, and a test.
"""

from corepress.metrics import METRICS, Row
from corepress.verification.compare import verify
from corepress.verification.result import Verification

__all__ = ["METRICS", "Row", "Verification", "verify"]
