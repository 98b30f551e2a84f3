"""Writes what docs/ takes from tables of the code, of targets, layers and rules: `make docs`."""

from __future__ import annotations

import re
from pathlib import Path

from tests import layers

from corepress.linting import RULES, Rule
from corepress.linting.findings import MEASURED
from corepress.linting.rule import DEVICES, SEVERITIES, Severity
from corepress.targets import markdown_table

DOCS = Path(__file__).parent.parent / "docs"
TARGETS = """# What each system can hold

Written by `make docs` from `corepress.targets`; `corepress targets` prints it.

"""
LINT = f"""# What devices are reported to get wrong

Written by `make docs` from the rules of `corepress.linting`.

A model may be valid and yet fail on a device, answer wrongly there, or be slow. `corepress lint` looks for what others
reported of that kind: forms of weights, operations, inputs and states. It reads the model and runs nothing.

**{MEASURED}** A report may be wrong, be about one model only, or be mended in a later system; each rule says what is
known and links to it. So take a finding as a place to look at on the devices that you ship to, and no finding not as a
proof.

```console
corepress lint model.mlpackage                        # all that is known
corepress lint model.mlpackage --device ane           # only of the Neural Engine; also gpu, cpu
corepress lint model.mlpackage --target iOS18         # the app runs on iOS 18 and newer only
corepress lint model.mlpackage --sarif lint.sarif     # for a code host; --json for scripts
```

The exit code is 0 if nothing was found and 1 if something was ([the command line in scripts](cli.md#lint)). From Python
it is [`corepress.lint`](reference/corepress.md#corepress.lint). Commands that compress say at their end which rules
apply to what they changed. In pipelines and models with several functions each program is looked at. To neural networks
apply the rules about inputs, recurrences and stored weights; of other kinds of models no rule speaks.

"""
_HEADINGS: dict[Severity, str] = {
    "wrong": "Wrong answers, or a failure",
    "slow": "Slow",
    "no gain": "Smaller, but no faster",
}


def lint_page() -> str:
    """All of docs/lint.md."""
    sections = [f"## {_HEADINGS[severity]}\n\n{_rules(severity)}" for severity in SEVERITIES]
    return LINT + "\n".join(sections)


def _rules(severity: Severity) -> str:
    rows = ["| rule | where | what was reported | what to do |", "| --- | --- | --- | --- |"]
    rows += [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in _cells(rule))} |" for rule in RULES
             if rule.severity == severity]  # fmt: skip
    return "\n".join(rows) + "\n"


def _cells(rule: Rule) -> tuple[str, ...]:
    where = f"{', '.join(DEVICES[device] for device in rule.devices)}; since {rule.since}"
    threads = ", ".join(f"[{_source(thread)}]({thread})" for thread in rule.threads)
    return f"`{rule.id}`: {rule.title}", where, f"{rule.known} ({threads})", rule.instead


def _source(thread: str) -> str:
    """A thread in short: "coremltools #2688"; of a page of Apple's guide its name."""
    issue = re.fullmatch(r"https://github.com/[^/]+/([^/]+)/(?:issues|pull)/(\d+)", thread)
    if issue:
        return f"{issue[1]} #{issue[2]}"
    return "Apple's forum" if "developer.apple.com" in thread else f"Apple, {thread.rsplit('/', 1)[1].split('.')[0]}"


def targets_page() -> str:
    """All of docs/targets.md."""
    return TARGETS + markdown_table()


def architecture_page() -> str:
    """docs/architecture.md, with the table of parts as it is now."""
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    return re.sub(r"\| part \|.*?\n(?!\|)", lambda _: layers.table(), page, count=1, flags=re.DOTALL)


if __name__ == "__main__":
    (DOCS / "targets.md").write_text(targets_page(), encoding="utf-8")
    (DOCS / "architecture.md").write_text(architecture_page(), encoding="utf-8")
    (DOCS / "lint.md").write_text(lint_page(), encoding="utf-8")
    print(f"wrote targets.md, lint.md and architecture.md in {DOCS}")
