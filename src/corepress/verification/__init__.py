"""Do two models answer the same?

`compare.py` runs both, `detections.py` pairs boxes, `metrics.py` measures, `evidence.py` says what the inputs prove,
`result.py` is the verdict. A new metric is a line of `METRICS`, a field of `Row` and what `Sums` adds up for it.
"""

from corepress.metrics import METRICS, Row
from corepress.verification.compare import verify
from corepress.verification.result import Verification

__all__ = ["METRICS", "Row", "Verification", "verify"]
