"""How the result of a compressing command is judged: on which inputs, by what, and from where on it has missed."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from corepress.cli.declare import Option
from corepress.cli.options import THRESHOLD, Metric, MinCosine, MinSnr, threshold_of
from corepress.errors import ConfigError, Missed
from corepress.sequences import Sample

if TYPE_CHECKING:
    from corepress.formats.mlprogram import Model
    from corepress.formats.neural_network import Model as Networks
    from corepress.verification import Verification
    from corepress.verification.compare import Watch

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Check:
    """What the options of a command say about judging its result."""

    verify: Annotated[
        bool,
        Option("--verify", help="Compare the outputs with the original's; exit code 1 if they are too far apart."),
    ] = False
    data: Annotated[
        Path | None,
        Option(
            "--data", "--sample-data", exists=True,
            help="Inputs like those of the app: an .npz file, an image, or a folder of them. A method that learns from "
            "them leaves a fifth to compare on; without one all are compared on.",
        ),
    ] = None  # fmt: skip
    test_data: Annotated[
        Path | None,
        Option("--test-data", exists=True, help="Other inputs to compare on, so that all of --data are learnt from."),
    ] = None
    metric: Annotated[Metric | None, Option("--metric", help="What decides, as in verify. [default: snr]")] = None
    verify_threshold: Annotated[float | None, Option("--verify-threshold", help=THRESHOLD)] = None
    min_snr: MinSnr = None
    min_cosine: MinCosine = None

    def __post_init__(self) -> None:
        if self._limit is not None:
            from corepress.metrics import limit_of

            limit_of(self._metric, self._limit)

    @property
    def _metric(self) -> str:
        return self.metric or ("snr" if self.min_cosine is None else "cosine")

    @property
    def goal(self) -> dict[str, float]:
        """What the outputs must keep, as the search for exceptions takes it; empty if nothing is asked."""
        given = {"min_snr": self.min_snr, "min_cosine": self.min_cosine}
        return {name: value for name, value in given.items() if value is not None}

    @property
    def _limit(self) -> float | None:
        return threshold_of(self._metric, self.verify_threshold, self.min_snr, "--verify-threshold", self.min_cosine)

    @property
    def wanted(self) -> bool:
        """Whether the result is compared with the original."""
        return self.decides or self.data is not None or self.test_data is not None

    @property
    def decides(self) -> bool:
        """Whether the command fails when the comparison misses its threshold."""
        asked = (self.metric, self.verify_threshold, self.min_snr, self.min_cosine)
        return self.verify or any(given is not None for given in asked)

    def inputs(self, model: Model | Networks, fits: str, function: str | None = None) -> Inputs:
        """The inputs to learn from and to compare on. `fits`: the option that learns from some, if any. `function`: of
        a package with several, the one that they are for."""
        if not fits:
            if self.data is not None and self.test_data is not None:
                raise ConfigError("--data has no effect beside --test-data: nothing here learns from it")
            chosen, source = (self.data, "--data") if self.test_data is None else (self.test_data, "--test-data")
            judged = None if chosen is None else _read_all(model, chosen, function)
            return Inputs([], judged, source if chosen else "", "all", function=function)
        if self.data is None:
            raise ConfigError(f"{fits} needs --data: inputs that are like those of the app")
        from corepress.runtime.samples import folders_of_functions

        if folders := folders_of_functions(model, self.data, function):
            return self._of_functions(model, folders)
        given = list(_read(model, self.data, function, finite=True))
        if self.test_data is not None:
            return Inputs(given, _read(model, self.test_data, function), "--test-data", "all", function=function)
        from corepress.split import hold_back

        learnt, kept = hold_back(given)
        if kept:
            return Inputs(learnt, kept, "--data", "held back", len(given), function)
        log.warning(
            "the result is measured on the samples that it was fitted to: --data holds too few different ones to hold "
            "some back; give more, or others to judge by (--test-data)"
        )
        return Inputs(given, given, "--data", "fitted to", len(given), function)

    def _of_functions(self, model: Model | Networks, folders: Mapping[str, Path]) -> Inputs:
        """The inputs of several functions, each from its folder."""
        from corepress.split import hold_back

        given = {name: list(_read(model, folder, name, finite=True)) for name, folder in folders.items()}
        total = sum(map(len, given.values()))
        if self.test_data is not None:
            judged = _read_all(model, self.test_data, None)
            if not isinstance(judged, Mapping):
                raise ConfigError(f"{self.test_data}: it must have a folder for each function, as --data has")
            return Inputs(given, judged, "--test-data", "all")
        split = {name: hold_back(samples) for name, samples in given.items()}
        if all(kept for _, kept in split.values()):
            learnt, kept = ({name: own[side] for name, own in split.items()} for side in (0, 1))
            return Inputs(learnt, kept, "--data", "held back", total)
        log.warning(
            "the result is measured on the samples that it was fitted to: --data holds too few different ones of some "
            "function to hold some back; give more, or others to judge by (--test-data)"
        )
        return Inputs(given, given, "--data", "fitted to", total)

    def judge(
        self, inputs: Inputs, original: Model | Networks, result: Model | Networks, watch: Watch | None = None
    ) -> Judgement:
        """Compare a result with the original; a warning where the inputs are few. `watch`: as `verify` takes it."""
        from corepress.split import FEW
        from corepress.verification import verify

        judged = inputs.judged if isinstance(inputs.judged, Mapping) else {inputs.function: inputs.judged}
        found = {
            name: verify(
                original, result, samples, metric=self._metric, threshold=self._limit, function=name, watch=watch
            )
            for name, samples in judged.items()
        }
        verification = _worst(found, self._metric)
        count = verification.distinct or verification.samples
        if inputs.judged is not None and count < FEW and inputs.part != "fitted to":
            log.warning(
                "the result is judged by %d different input%s: below %d or so the numbers are rough",
                count, "" if count == 1 else "s", FEW,
            )  # fmt: skip
        return Judgement(verification, inputs)

    def enforce(self, judgement: Judgement, output: Path) -> None:
        """Raise Missed where the result misses what was asked of it."""
        if self.decides and not judgement.verification.ok:
            raise Missed(f"{judgement.verification.summary}; {output} is written all the same")


class Inputs(NamedTuple):
    """What is learnt from, and what the result is judged by: None for random inputs.

    `source`: the option that names the latter. `part`: "all" of them, those "held back", or those "fitted to"; `total`:
    of how many in these two cases. Of several functions both are by their names. `function`: of a package with several,
    the one that they are for.
    """

    learnt: list[Sample] | dict[str, list[Sample]]
    judged: Iterable[Sample] | Mapping[str, Iterable[Sample]] | None
    source: str
    part: str
    total: int = 0
    function: str | None = None


class Judgement(NamedTuple):
    """A comparison and what it was made on."""

    verification: Verification
    inputs: Inputs

    @property
    def basis(self) -> str:
        """On what the numbers were measured, for people."""
        counted, inputs = self.verification.counted, self.inputs
        if inputs.judged is None:
            return f"{counted}: random inputs"
        if inputs.part == "held back":
            return f"held back: {self.verification.samples} of {inputs.total} samples of {inputs.source}"
        if inputs.part == "fitted to":
            return f"{counted}, of {inputs.source}, which it was fitted to"
        return f"{counted} of {inputs.source}"

    def to_dict(self) -> dict[str, Any]:
        """The comparison as plain data, with what it was made on."""
        inputs = self.inputs
        basis = {"source": inputs.source or "random inputs", "part": inputs.part}
        return {**self.verification.to_dict(), "judged_on": {**basis, "of": inputs.total or self.verification.samples}}


def _worst(found: Mapping[str | None, Verification], metric: str) -> Verification:
    """Of the verdicts on several functions the worst, which says of which one it is."""
    from corepress.metrics import METRICS

    order = METRICS[metric].order
    name, worst = min(found.items(), key=lambda item: order(item[1].worst.of(metric) or 0.0))
    if len(found) == 1:
        return worst
    note = f"this is function {name!r}, the worst of {len(found)}"
    return replace(worst, samples=sum(one.samples for one in found.values()), notes=(note, *worst.notes))


def _read_all(
    model: Model | Networks, path: Path, function: str | None
) -> Iterator[Sample] | dict[str, Iterator[Sample]]:
    """The samples of a file or folder, or those of each function of a folder of folders."""
    from corepress.runtime.samples import folders_of_functions

    folders = folders_of_functions(model, path, function)
    return {name: _read(model, own, name) for name, own in folders.items()} or _read(model, path, function)


def _read(model: Model | Networks, path: Path, function: str | None, *, finite: bool = False) -> Iterator[Sample]:
    """The samples of a file or folder; `finite`: to learn from, so that they must not hold NaN or infinities."""
    from corepress.runtime.load import interface
    from corepress.runtime.samples import checked, read_samples

    inputs = interface(model, function)
    return checked(read_samples(path, inputs), inputs, str(path), finite=finite)
