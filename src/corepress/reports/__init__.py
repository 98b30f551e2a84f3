"""What was done to a model and what became of it: as rows, as JSON, as a page to look at.

`rows.py` compares a model with the one that it was made from, weight by weight. `page.py` gathers what a page shows,
`figures.py` draws its charts with Altair, and `templates/` holds its HTML (Jinja2); these need the extra `report`. May
import what judges models (`verification`) and what lies below, but neither `cli` nor what makes models small, whose
results it is given.

To add a section to the page: a field of `Content` in `page.py`, a block of `templates/page.html` that is left out where
the field is empty, and a test in `tests/reports/test_page.py`.
"""

from corepress.reports.rows import Report, Row, report

__all__ = ["Report", "Row", "report"]
