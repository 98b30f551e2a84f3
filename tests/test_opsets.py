"""The table of operations is that of coremltools, its oracle, and of the runtime that carries them out."""

from __future__ import annotations

import sys

import pytest

from corepress.opsets import BY_INTERPRETER, KNOWN, SYSTEMS
from corepress.targets import TARGETS, target
from tests.process import python

# Neither is an operation of programs that are being built; files hold the second for the first.
IN_FILES = ("coreml_update_state", "write_state")


@pytest.fixture(scope="module")
def registered():
    """The operations of coremltools: by name, and of each the definitions by operation set."""
    pytest.importorskip("coremltools")
    from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry

    return {name: variants for name, variants in SSAOpRegistry.core_ops.items() if not name.startswith("_")}


def test_the_systems_are_those_of_coremltools_and_of_the_targets() -> None:
    ct = pytest.importorskip("coremltools")
    assert [system.name for system in ct.target if system >= ct.target.iOS15] == list(SYSTEMS)
    assert [known.name for known in TARGETS] == list(SYSTEMS)


def test_every_operation_is_in_the_sets_in_which_coremltools_has_it(registered) -> None:
    import coremltools as ct

    assert set(registered) | set(IN_FILES) == set(KNOWN)
    for name, known in KNOWN.items():
        first = min(registered[name]) if name in registered else ct.target.iOS18
        assert known.systems == tuple(system for system in SYSTEMS if ct.target[system] >= first), name


def test_the_arguments_that_the_table_names_are_arguments(registered) -> None:
    for name, known in KNOWN.items():
        for argument in (*known.sums, *([known.table] if known.table else ())):
            specs = [definition.input_spec.input_types for definition in registered[name].values()]
            assert any(argument in inputs for inputs in specs), (name, argument)
        assert not known.moves or not (known.sums or known.table)


def test_what_a_change_adds_is_new_in_that_set(registered) -> None:
    import coremltools as ct

    def inputs(name, system):
        """The arguments that an operation has in an operation set."""
        newest = max(known for known in registered[name] if known <= ct.target[system])
        return set(registered[name][newest].input_spec.input_types)

    for name, known in KNOWN.items():
        for change in known.changes:
            before = SYSTEMS[SYSTEMS.index(change.since) - 1]
            assert target(before).spec_version + 1 == target(change.since).spec_version
            for argument, _ in change.add:
                assert argument in inputs(name, change.since) - inputs(name, before), (name, argument)


def test_every_operation_can_be_carried_out() -> None:
    pytest.importorskip("torch")
    from corepress.formats.mlprogram.constexpr import _READERS, _SPARSE_VALUES
    from corepress.runtime.plan import CONTROL
    from corepress.runtime.registry import OPERATIONS

    functions = {name for name, known in KNOWN.items() if known.group not in BY_INTERPRETER}
    assert functions == set(OPERATIONS)
    # Core AI alone calls other functions.
    assert set(KNOWN) - functions == {*CONTROL, *_READERS, *_SPARSE_VALUES, "const"} - {"invoke"}


def test_a_function_stands_in_the_file_of_its_group() -> None:
    pytest.importorskip("torch")
    import corepress.runtime.ops  # noqa: F401 - fills the registry
    from corepress.runtime.registry import OPERATIONS

    for name, known in OPERATIONS.items():
        module = sys.modules[known.function.__module__]
        assert module.__name__ == f"corepress.runtime.ops.{KNOWN[name].group}"


def test_the_table_and_the_runtime_need_no_coremltools() -> None:
    pytest.importorskip("torch")
    script = "import sys, corepress.runtime.ops, corepress.opsets; print('coremltools' in sys.modules)"
    assert python(script).stdout.strip() == "False"
