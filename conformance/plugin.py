"""A pytest plugin that runs coremltools' own tests of `coremltools.optimize.coreml` against `corepress.coreml`.

Loaded with `-p conformance.plugin`, before any test module is imported; `python -m conformance` does so. With
`--operations`, the tests are those of MIL operations, and corepress.runtime predicts; `--torch` and `--neural-network`
are for the other parts. `expected.yaml`, or `expected_operations.yaml` and so on, says which tests are left out, and
which are bound to fail and why.
"""

from __future__ import annotations

import gc
import random
import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import yaml

from conformance import network_stand_ins, operations, torch_stand_ins
from conformance.stand_ins import replace_the_peer, stand_in

SUMMARY = pytest.StashKey[dict[str, Any]]()
# What the exception of a test that is bound to fail says.
EXPECTED = pytest.StashKey[str]()
# Whether a test looks for the peer's wording among the log's records.
WORDING = pytest.StashKey[bool]()
OTHER_WORDING: Counter[str] = Counter()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="run only three cases of each test")
    parser.addoption("--wording", action="store_true", help="show where our errors are worded otherwise")
    parser.addoption("--operations", action="store_true", help="test corepress.runtime with the tests of operations")
    parser.addoption("--torch", action="store_true", help="test corepress.torch")
    parser.addoption("--neural-network", action="store_true", help="test corepress.neural_network")
    parser.addoption("--control", action="store_true", help="test coremltools itself instead")


def pytest_configure(config: pytest.Config) -> None:
    if config.option.operations:
        operations.run_models_with_corepress()
    elif config.option.torch and not config.option.control:
        torch_stand_ins.replace_the_peer()
    elif config.option.neural_network:
        network_stand_ins.replace_the_peer(config.option.control)
    elif not config.option.control:
        replace_the_peer()


# What the tests see of pytest and of the machine.


@contextmanager
def raises(expected: Any, *, match: str | None = None) -> Iterator[Any]:
    """`pytest.raises`, but other wording is counted, not refused."""
    with pytest.raises(expected) as info:
        yield info
    if match is not None and not re.search(match, str(info.value)):
        OTHER_WORDING[f"{match}  <>  {info.value}"] += 1


def logged(matches: Iterable[Any]) -> bool:
    """`any`, with which these tests look for a wording among the log's records: here any record will do."""
    found = list(matches)
    if found and not any(found):
        OTHER_WORDING["(a warning)"] += 1
    return bool(found)


def adapt(module: Any) -> None:
    """Give a test module our `raises`, and a machine on which it does not give up before it begins."""
    module.pytest = stand_in(pytest, raises=raises)
    if hasattr(module, "platform"):
        # On x86 some tests xfail at once, since Core ML runs their models wrong there; here none is run.
        module.platform = stand_in(module.platform, machine=lambda: "arm64")


@pytest.fixture(autouse=True)
def _any_wording(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.node.stash.get(WORDING, False):
        monkeypatch.setattr(request.module, "any", logged, raising=False)


@pytest.fixture(autouse=True)
def _same_weights_on_each_run(request: pytest.FixtureRequest) -> None:
    import torch

    seed = zlib.crc32(short(request.node.nodeid).encode())
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)


# Which tests run.


def short(nodeid: str) -> str:
    """`file.py::Class::test[case]`"""
    return re.sub(r"^[^:]*/", "", nodeid)


class Rule(NamedTuple):
    """Of the tests that `pattern` finds: why they are listed, and, if they are bound to fail, with what text."""

    pattern: re.Pattern[str]
    why: str
    text: str


def read_rules(kind: str, name: str) -> list[Rule]:
    """The section `kind` of a file: under each reason a list of patterns, or patterns with texts of exceptions."""
    lists = yaml.safe_load(Path(__file__).with_name(name).read_text(encoding="utf-8")).get(kind, {})
    return [
        Rule(re.compile(test), why, tests[test] if isinstance(tests, dict) else "")
        for why, tests in lists.items()
        for test in tests
    ]


def find(rules: list[Rule], item: pytest.Item, used: set[str]) -> Rule | None:
    for rule in rules:
        if rule.pattern.search(short(item.nodeid)):
            used.add(rule.pattern.pattern)
            return rule
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[Any]) -> None:
    kinds = ("operations", "torch", "neural_network")
    name = f"expected{''.join(f'_{kind}' for kind in kinds if getattr(config.option, kind))}.yaml"
    rules = {kind: read_rules(kind, name) for kind in ("left_out", "wording", "expected")}
    used: set[str] = set()
    kept: list[Any] = []
    left_out: Counter[str] = Counter()
    for item in items:
        if hasattr(item, "callspec") and item.callspec.params.get("fake_compression"):
            left_out["fake_compression is private to the peer"] += 1
        elif config.option.operations and not operations.is_exact_program(item):
            left_out["no program in float32"] += 1
        elif rule := find(rules["left_out"], item, used):
            left_out[rule.why] += 1
        else:
            item.stash[WORDING] = find(rules["wording"], item, used) is not None
            if (rule := find(rules["expected"], item, used)) and not config.option.control:
                # Strict: a listed test that passes is a failure, so the list can't go stale.
                item.add_marker(pytest.mark.xfail(reason=rule.why, strict=True))
                item.stash[EXPECTED] = rule.text
            kept.append(item)
    unused = [rule.pattern.pattern for kind in rules.values() for rule in kind if rule.pattern.pattern not in used]
    if config.option.quick:
        chosen = few_of_each(kept)
        left_out["--quick"] = len(kept) - len(chosen)
        kept = chosen
    for module in set() if config.option.operations else {item.module for item in kept}:
        adapt(module)
    config.stash[SUMMARY] = {"collected": len(items), "left_out": dict(left_out), "unused": unused}
    items[:] = kept


def pytest_collection_finish() -> None:
    """coremltools searches for garbage after each conversion: not among all that is loaded, which takes longer."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[Any]) -> Iterator[None]:
    """A test that is bound to fail must do so with the text that is listed: of its exception, or of the statement."""
    outcome: Any = yield
    report = outcome.get_result()
    text = item.stash.get(EXPECTED, None)
    if text is None or call.excinfo is None or not hasattr(report, "wasxfail"):
        return
    statement = " ".join(str(call.excinfo.traceback[-1].statement).split())
    found = f"{call.excinfo.typename}: {call.excinfo.value}\nin: {statement}"
    if not re.search(text, found, re.DOTALL):
        report.outcome = "failed"
        report.longrepr = f"{report.wasxfail}: expected /{text}/, but found: {found[:1000]}"
        del report.wasxfail


def few_of_each(items: list[Any]) -> list[Any]:
    """The first case of each test, which is for iOS16, and the last two, which are for iOS18."""
    cases: dict[str, list[Any]] = defaultdict(list)
    for item in items:
        cases[item.nodeid.partition("[")[0]].append(item)
    return [item for group in cases.values() for item in dict.fromkeys((group[0], *group[-2:]))]


# From the workers of xdist to the summary.


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    summary = session.config.stash.get(SUMMARY, None)
    if summary is None:
        return
    summary |= {"wording": dict(OTHER_WORDING), "predictions": operations.predictions}
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["conformance"] = summary
    elif summary["unused"]:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: Any) -> None:
    summary = node.workeroutput.get("conformance") if hasattr(node, "workeroutput") else None
    if summary is not None:
        OTHER_WORDING.update(summary["wording"])
        operations.predictions += summary["predictions"]
        node.config.stash[SUMMARY] = summary | {"wording": dict(OTHER_WORDING)}


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    summary = config.stash.get(SUMMARY, None)
    if summary is None:
        return
    stats = terminalreporter.stats
    failed = [report for kind in ("failed", "error") for report in stats.get(kind, [])]
    stale = [report for report in failed if "XPASS(strict)" in str(report.longrepr)]
    skipped = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in stats.get("skipped", []))
    expected = Counter(report.wasxfail for report in stats.get("xfailed", []))
    rows = [
        ("collected", summary["collected"], {}),
        ("left out", sum(summary["left_out"].values()), summary["left_out"]),
        ("skipped by the test itself", sum(skipped.values()), skipped),
        ("passed", len(stats.get("passed", [])), {}),
        ("fail as expected", sum(expected.values()), expected),
        ("fail", len(failed) - len(stale), {}),
        ("listed as expected to fail, but pass", len(stale), {}),
        ("lists that name no test", len(summary["unused"]), dict.fromkeys(summary["unused"], 0)),
        ("predictions by corepress.runtime", operations.predictions, {}),
        ("errors of the right type and warnings, worded otherwise", sum(summary["wording"].values()), {}),
    ]
    write = terminalreporter.write_line
    terminalreporter.section("conformance")
    for name, count, reasons in rows:
        write(f"{count:6}  {name}")
        for text, number in sorted(reasons.items(), key=lambda entry: -entry[1]):
            write(f"{number:14}  {text}")
    if config.option.wording:
        for text, number in summary["wording"].items():
            write(f"{number:6}  {text}")
