"""The harness that runs coremltools' tests: what it lists is there, and what is there is run or listed."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
import yaml
from conformance import __main__ as harness

pytest_plugins = ["pytester"]

COREMLTOOLS = importlib.util.find_spec("coremltools")
if COREMLTOOLS is None or COREMLTOOLS.origin is None:
    pytest.skip("needs coremltools", allow_module_level=True)
FOLDER = Path(COREMLTOOLS.origin).parent
PARTS = {
    "": harness.TESTS,
    "--operations": harness.OPERATIONS,
    "--torch": harness.TORCH,
    "--neural-network": harness.NETWORKS,
}


@pytest.mark.parametrize("option", PARTS)
def test_every_file_of_the_peer_is_run_or_listed(option) -> None:
    assert harness.unlisted(FOLDER, option, PARTS[option]) == []
    fewer = PARTS[option][1:]
    assert harness.unlisted(FOLDER, option, fewer) != []


@pytest.mark.parametrize("path", sorted(Path(harness.__file__).parent.glob("expected*.yaml")), ids=lambda p: p.name)
def test_every_expected_failure_names_its_text(path) -> None:
    lists = yaml.safe_load(path.read_text())
    for tests in lists["expected"].values():
        for pattern, text in tests.items():
            assert re.compile(pattern) and re.compile(text) and len(text) > 10, pattern


CASES = """
import pytest
from conformance import plugin

@pytest.fixture(autouse=True)
def listed(request):
    request.node.add_marker(pytest.mark.xfail(reason="because", strict=True))
    request.node.stash[plugin.EXPECTED] = "ValueError: the (right|good) text"

def test_right(): raise ValueError("this is the right text") if 0 else ValueError("the right text")
def test_wrong_text(): raise ValueError("the wrong text")
def test_wrong_type(): raise TypeError("the right text")
def test_passes(): pass
"""


@pytest.mark.slow
def test_a_failure_with_another_text_is_a_failure(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
    pytester.makepyfile(CASES)
    pytester.makeconftest("from conformance.plugin import pytest_runtest_makereport")
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    assert result.parseoutcomes() == {"xfailed": 1, "failed": 3}
    result.stdout.fnmatch_lines(["*because: expected /ValueError: the (right|good) text/, but found: *wrong text*"])
