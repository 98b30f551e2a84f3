"""Puts a table on a pull request: as a new comment, or in place of the one that it wrote before.

GITHUB_TOKEN, GITHUB_REPOSITORY and GITHUB_API_URL in the environment say who comments and where. A token that may not
comment, as that of a pull request from a fork, is a warning: the table stands in the summary of the run all the same.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

PAGE = 100


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--about", required=True, help="what the table is of: one comment for each")
    parser.add_argument("--number", type=int, required=True, help="of the pull request")
    options = parser.parse_args()
    # Two hyphens would end the comment of HTML.
    mark = f"<!-- corepress {options.about.replace('--', '- -')} -->"
    body = {"body": f"{mark}\n{options.table.read_text(encoding='utf-8')}"}
    issues = f"/repos/{os.environ['GITHUB_REPOSITORY']}/issues"
    try:
        before = earlier(f"{issues}/{options.number}/comments", mark)
        if before is None:
            ask("POST", f"{issues}/{options.number}/comments", body)
        else:
            ask("PATCH", f"{issues}/comments/{before}", body)
    except urllib.error.HTTPError as error:
        if error.code not in (401, 403, 404):
            raise
        print(
            "::warning title=corepress::The token may not comment on this pull request: give the job "
            "`permissions: pull-requests: write`. The table is in the summary of the run."
        )
    return 0


def earlier(comments: str, mark: str) -> int | None:
    """The number of the comment that holds the mark."""
    page = 1
    while found := ask("GET", f"{comments}?per_page={PAGE}&page={page}"):
        for comment in found:
            if comment["body"].startswith(mark):
                return int(comment["id"])
        page += 1
    return None


def ask(method: str, path: str, body: Any = None) -> Any:
    request = urllib.request.Request(
        os.environ.get("GITHUB_API_URL", "https://api.github.com") + path,
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={
            "Accept": "application/vnd.github+json",
            "Authorization": f"Bearer {os.environ['GITHUB_TOKEN']}",
            "Content-Type": "application/json",
        },
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


if __name__ == "__main__":
    sys.exit(main())
