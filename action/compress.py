"""Compresses a model, verifies it, holds it to a size, and writes a table in Markdown of what came out.

It runs the command `corepress` of the Python that runs it. The exit code is 0 when all is good, 1 when the
model misses what was asked of it, and that of the command where it fails. `docs/continuous_integration.md` has the use.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from corepress.cli.committed import given_size
from corepress.sizes import size


def main() -> int:
    options = parsed()
    limit = options.max_size
    report, failed = corepress([*shlex.split(options.command), options.model, "-o", options.output, "--overwrite"])
    if "size_after" not in report:
        return told(options, [], [f"`corepress {options.command}` failed: {error_of(report)}"], failed or 3)
    problems = [error_of(report)] if failed else []  # a threshold of the command's own
    rows = [
        ("size", size(report["size_before"]), f"{size(report['size_after'])} (ratio {report['ratio']:.2f})"),
        ("weights compressed", "", f"{report['compressed']} of {len(report['weights'])}"),
        ("bits per weight", "", f"{report['bits_per_weight']:.2f}"),
        ("runs on", f"{report['target_before']} and newer", f"{report['target']} and newer"),
    ]
    rows += linted(options)
    write_outputs(size=report["size_after"], ratio=f"{report['ratio']:.4f}")
    if limit is not None:
        rows.append(("size allowed", "", size(limit)))
        if report["size_after"] > limit:
            problems.append(f"It has {size(report['size_after'])}, but {size(limit)} are allowed.")
    if options.verify == "true":
        data = ["--data", options.data] if options.data else []
        judged, missed = corepress(["verify", options.model, options.output, *data, "--min-snr", options.min_snr])
        failed = failed or missed
        if "outputs" not in judged:
            problems.append(f"`corepress verify` failed: {error_of(judged)}")
        else:
            rows += [(f"output `{output['name']}`", "", answer(output)) for output in judged["outputs"]]
            rows.append(
                ("compared on", "", f"{judged['samples']} {'random inputs' if judged['random_inputs'] else 'samples'}")
            )
            problems += [] if judged["ok"] else [judged["summary"]]
    return told(options, rows, problems, failed or bool(problems))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--command", default="palettize --nbits 4", help="a compressing command with its options")
    parser.add_argument("--verify", choices=["true", "false"], default="true")
    parser.add_argument("--data", default="", help="inputs to compare on")
    parser.add_argument("--min-snr", default="20", help="least SNR of each output, in dB")
    parser.add_argument("--max-size", type=lambda text: given_size(text) if text else None, help='such as "10 MB"')
    parser.add_argument("--table", type=Path, required=True, help="where to write the table")
    return parser.parse_args()


def corepress(arguments: list[str]) -> tuple[dict[str, Any], int]:
    """The report of a command, which it prints also when it fails, and its exit code."""
    command = [sys.executable, "-m", "corepress", *arguments, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, encoding="utf-8", check=False)
    return json.loads(done.stdout or "{}"), done.returncode


def linted(options: argparse.Namespace) -> list[tuple[str, str, str]]:
    """What devices are reported to make of the result, as a row of the table, if there is anything; and for the host of
    the code as SARIF, beside the table. It does not count as missing what was asked."""
    sarif = options.table.with_suffix(".sarif")
    found, _ = corepress(["lint", options.output, "--sarif", str(sarif), "--overwrite"])
    if "rules" not in found:
        return []
    write_outputs(sarif=sarif)
    rules = [f"`{rule['id']}` ({rule['severity']} on {', '.join(rule['devices'])})" for rule in found["rules"]]
    return [("reported of devices", "", ", ".join(rules))] if rules else []


def error_of(report: dict[str, Any]) -> str:
    return str(report.get("error", {}).get("message", "see the log"))


def answer(output: dict[str, Any]) -> str:
    """How near an output of the compressed model is, by the numbers that it has."""
    named = {"snr": ("SNR", " dB"), "top1": ("same best class", ""), "cosine": ("cosine", "")}
    parts = []
    for field, (name, unit) in named.items():
        value = output[field]
        if value is not None:
            parts.append(f"{name} {value if isinstance(value, str) else format(value, '.4g')}{unit}")
    return ", ".join(parts)


def told(options: argparse.Namespace, rows: list[tuple[str, str, str]], problems: list[str], code: int) -> int:
    """Write the table to where it is asked for, and where a runner shows it; print what is wrong."""
    verdict = "❌ misses what was asked of it" if problems else "✅ good"
    lines = [f"### corepress: `{options.model}` {verdict}", ""]
    if rows:
        lines += [f"| | before | `{options.command}` |", "| --- | --- | --- |"]
        lines += [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    lines += [""] + [f"- {problem}" for problem in problems]
    text = "\n".join(lines).rstrip() + "\n"
    options.table.write_text(text, encoding="utf-8")
    write_outputs(table=options.table)
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        with Path(summary).open("a", encoding="utf-8") as file:
            file.write(text + "\n")
    print(text)
    for problem in problems:
        print(f"::error title=corepress::{options.model}: {problem}")
    return code


def write_outputs(**values: object) -> None:
    """What later steps of a workflow may read."""
    if place := os.environ.get("GITHUB_OUTPUT"):
        with Path(place).open("a", encoding="utf-8") as file:
            file.writelines(f"{name}={value}\n" for name, value in values.items())


if __name__ == "__main__":
    sys.exit(main())
