"""Records the grid: see the folder's documentation for when."""

from __future__ import annotations

import json

from tests.kernels.grid.cases import recorded
from tests.kernels.grid.groups import FAMILIES, RECORDED, groups


def main() -> None:
    found = {
        f"{family}.{name}": {case.name: recorded(case) for case in group()}
        for family in FAMILIES
        for name, group in groups(family).items()
    }
    RECORDED.write_text(json.dumps(found, indent=0) + "\n")
    print(f"{sum(map(len, found.values()))} cases in {len(found)} groups: {RECORDED}")


if __name__ == "__main__":
    main()
