"""`verify`: run a model and what was made of it on the same inputs, and measure how far the answers are apart."""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from corepress.errors import ConfigError, DataError
from corepress.formats.mlprogram import Model
from corepress.language import Predictions, Tally, Words, with_predictions
from corepress.metrics import Row, Sums, limit_of, numbers
from corepress.sequences import Sample, steps_of
from corepress.verification.detections import paired
from corepress.verification.evidence import Evidence
from corepress.verification.result import Verification

if TYPE_CHECKING:
    from corepress.formats.features import Interface
    from corepress.formats.neural_network import Model as Networks
    from corepress.runtime import Runnable
    from corepress.runtime.domains import Domain
    from corepress.runtime.networks import Custom

    Source = str | Path | Model | Networks

Data = Iterable[Sample] | str | Path
# Is shown a step of a sample, what the original answers to it, and what the other model does.
Watch = Callable[[Mapping[str, Any], Mapping[str, Any], Mapping[str, Any]], None]
# What waits for the second model waits in memory up to this size, and in a temporary file beyond.
_IN_MEMORY = 64 << 20


def verify(
    original: str | Path | Model | Networks,
    compressed: str | Path | Model | Networks,
    data: Data | None = None,
    *,
    metric: str = "snr",
    threshold: float | None = None,
    per_op: bool = False,
    samples: int = 4,
    seed: int = 0,
    device: str = "cpu",
    precision: str = "float32",
    function: str | None = None,
    custom: Mapping[str, Callable[..., Any]] | None = None,
    stage: str | int | None = None,
    tokens: str | None = None,
    logits: str | None = None,
    watch: Watch | None = None,
) -> Verification:
    """Run two models on the same inputs and compare what they answer.

    One model is in memory at a time (with `per_op`, both), and of an ML program no more than 128 MB of its weights and
    the one that is needed. Where the original gives NaN or infinity, nothing is compared; a copy that gives them
    elsewhere fails. A stateful model starts each sample with a fresh state, which the steps of a sequence carry on.

    Args:
        original: A path, a `corepress.Model` or a `corepress.neural_network.Model`.
        compressed: The same of what was made of it.
        data: Inputs as an iterable of {name: array}, which is read once; or the path of an .npz, an image, or a folder
            of them. Arrays have the shapes and types of the inputs. A list of {name: array} in their place is a
            sequence of steps that carry one state. Without data, inputs are random, which is weak evidence.
        metric: What decides `ok`: "snr" or "psnr" (dB), "cosine", "top1", "kl" (nats), "perplexity" or "max_abs".
        threshold: From where on it is good; `corepress.verification.METRICS` has the defaults.
        per_op: Compare every value that has the same name in both.
        samples: How many random inputs, without `data`.
        seed: Of the random inputs.
        device: Where PyTorch computes, such as "cpu", "cuda" or "mps".
        precision: "float32", which leaves the rounding of float16 out of account, or "as_is".
        function: Of a model with several, the one to run.
        custom: Functions for custom layers of neural networks, as in `corepress.runtime.load`.
        stage: Of a pipeline, the name or the index of the stage whose inputs are compared instead of the outputs; -1 is
            the last. Inputs of a stage that suppresses overlapping boxes are compared anyway, beside the outputs.
        tokens, logits: Of a language model, the input that holds tokens, and the output with a number for each token
            that may follow: for the metrics of language. By default the input that looks up rows of a table, and the
            first output with as many numbers.
        watch: Called with each step of each sample and the answers of both models to it, all of them mappings by name.

    Returns:
        The verdict, a row for each output, for sequences also those of each step, and what makes the evidence weaker.

    Raises:
        CorepressError: Where the models can't be run or compared.

    Examples:
        >>> samples = [{"image": image} for image in np.load("samples.npz")["image"]]
        >>> result = cto.verify("model.mlpackage", "small.mlpackage", samples)
        >>> result.ok, round(result.worst.snr)
        (True, 27)
    """
    limit = limit_of(metric, threshold)
    if data is None and samples < 1:
        raise ConfigError(f"samples must be at least 1, not {samples}")
    from corepress import runtime
    from corepress.runtime.load import is_core_ai, opened

    original, compressed = opened(original), opened(compressed)
    _check_outputs(original, compressed, function)

    def load(source: Source) -> Runnable:
        functions = _custom_of(source, compressed if source is original else original, custom)
        kept = "as_is" if is_core_ai(source) else precision  # so that Apple's own runtime is asked
        program = runtime.load(source, device, precision=kept, function=function, weights="streamed", custom=functions)
        return _showing(program, stage)

    def inputs(program: Runnable) -> Iterable[Sample]:
        return _inputs(program, data, seed, samples)

    def words(interface: Interface, domains: Mapping[str, Domain]) -> Words | None:
        from corepress.runtime.language import words_of

        return words_of(interface, domains, tokens, logits)

    run = _side_by_side if per_op else _in_turn
    evidence, compared, operations = run(original, compressed, load, inputs, words, watch)
    rows = compared.rows()
    _check_rows(rows, metric)
    notes = (*_about_random(data, evidence), *evidence.notes(), *_left_out(rows))
    return Verification(
        rows, operations, metric, limit, evidence.samples, data is None, evidence.distinct, notes, compared.by_step(),
        compared.predictions.by_position() if compared.predictions else (),
    )  # fmt: skip


def _check_outputs(original: Source, compressed: Source, function: str | None) -> None:
    """Refuse models of different outputs, before anything is run."""
    from corepress.runtime.load import interface

    names, others = (
        {feature.name for feature in interface(source, function).outputs} for source in (original, compressed)
    )
    if names != others:
        raise ConfigError(
            f"the models have different outputs: {', '.join(sorted(names))} and {', '.join(sorted(others))}"
        )


def _custom_of(source: Source, other: Source, custom: Custom | None) -> Custom | None:
    """The functions of custom layers that are for one of two models: those for a network beside it are not."""
    from corepress.runtime.load import takes_custom

    return None if custom and takes_custom(other) and not takes_custom(source) else custom


def _showing(program: Runnable, stage: str | int | None) -> Runnable:
    """The program with the outputs that are compared."""
    from corepress.runtime.stages.pipeline import Pipeline

    if not isinstance(program, Pipeline):
        if stage is not None:
            raise ConfigError("stage= is for pipelines, and this model has no stages")
        return program
    if stage is not None:
        return program.showing(stage, alone=True)
    return program if program.detections is None else program.showing(-1)


def _check_rows(rows: tuple[Row, ...], metric: str) -> None:
    """Refuse a comparison without a single number to judge by."""
    if any(getattr(row, metric) is not None for row in rows):
        return
    if empty := [repr(row.name) for row in rows if row.elements and row.left_out == row.elements]:
        raise DataError(
            f"the original gives no finite number in the output {', '.join(empty)}, so there is nothing to compare "
            "with; give inputs like those of the app (data=)"
        )
    raise ConfigError(f"no output of this model has the metric {metric}; choose another one, such as top1 or snr")


def _about_random(data: Data | None, evidence: Evidence) -> Iterator[str]:
    if data is None:
        from corepress.runtime.random_inputs import guesses

        yield "random inputs are weak evidence, give real ones (data=)"
        yield from guesses(evidence.interface, evidence.domains)


def _left_out(rows: tuple[Row, ...]) -> Iterator[str]:
    for row in rows:
        if row.left_out:
            count = f"{row.left_out:,} of {row.elements:,} elements of output {row.name!r}"
            yield f"{count} are NaN or infinite in the original, and are left out"


def _domains(program: Runnable) -> Mapping[str, Domain]:
    from corepress.runtime.domains import domains

    return domains(program)


def _inputs(program: Runnable, data: Data | None, seed: int, count: int) -> Iterable[Sample]:
    from corepress.runtime.random_inputs import random_samples
    from corepress.runtime.samples import checked, read_samples

    if data is None:
        return random_samples(program.interface, seed, count, _domains(program))
    if isinstance(data, str | Path):
        return checked(read_samples(data, program.interface), program.interface, str(data))
    # As dictionaries: files of arrays, which are mappings as well, can't wait for the other model.
    given = checked([data] if isinstance(data, Mapping) else data, program.interface, "data")
    return (dict(one) if isinstance(one, Mapping) else tuple(map(dict, one)) for one in given)


class _Compared:
    """What two models answered, by the name of the output: over everything, and of sequences for each step.

    `program`: one of them. `words`: where they are language models.
    """

    def __init__(self, names: Iterable[str], program: Runnable, words: Words | None):
        self.outputs, self.program = {name: Sums() for name in names}, program
        self.steps: list[dict[str, Sums]] = []
        self.predictions = None if words is None else Predictions(words)

    def add(
        self, step: int | None, inputs: Mapping[str, Any], expected: Mapping[str, Any], found: Mapping[str, Any]
    ) -> None:
        """Count the answers to one step; `step`: its number, or None for a sample that is no sequence."""
        if self.predictions is not None:
            self.predictions.add(step, inputs, expected, found)
        _compare(self.outputs, expected, found, self.program)
        if step is not None:
            if step == len(self.steps):
                self.steps.append({name: Sums() for name in self.outputs})
            _compare(self.steps[step], expected, found, self.program)

    def rows(self) -> tuple[Row, ...]:
        tally = None if self.predictions is None else self.predictions.whole
        return tuple(self._row(name, sums, tally) for name, sums in self.outputs.items())

    def by_step(self) -> tuple[tuple[Row, ...], ...]:
        tallies = {} if self.predictions is None else self.predictions.steps
        return tuple(
            tuple(self._row(name, sums, tallies.get(number)) for name, sums in step.items())
            for number, step in enumerate(self.steps)
        )

    def _row(self, name: str, sums: Sums, tally: Tally | None) -> Row:
        row = sums.row(name)
        if self.predictions is None or tally is None or name != self.predictions.logits:
            return row
        return with_predictions(row, tally)


# What makes a model one of language, by its interface and what is known of its inputs.
Find = Callable[["Interface", Mapping[str, "Domain"]], Words | None]
Result = tuple[Evidence, _Compared, tuple[Row, ...]]


def _in_turn(
    original: Source,
    compressed: Source,
    load: Callable[[Source], Runnable],
    inputs: Callable[[Runnable], Iterable[Sample]],
    words: Find,
    watch: Watch | None,
) -> Result:
    """First the original answers everything, then the other model: only one of them is in memory."""
    with _spool() as spool:
        evidence = _answers(load(original), inputs, spool)
        program = load(compressed)
        compared = _Compared(_common(evidence.outputs, program), program, words(evidence.interface, evidence.domains))
        state = program.make_state()
        for number, step, expected in _read(spool):
            if not number:
                state = program.make_state()
            found = program.predict(step, state)
            compared.add(number, step, expected, found)
            if watch is not None:
                watch(step, expected, found)
    return evidence, compared, ()


def _answers(program: Runnable, inputs: Callable[[Runnable], Iterable[Sample]], spool: IO[bytes]) -> Evidence:
    """Write what the original answers, with what it answers to, and let go of it."""
    evidence = Evidence(program.interface, _domains(program))
    for sample in inputs(program):
        state = program.make_state()
        for number, step in _numbered(sample):
            answer = program.predict(step, state)
            evidence.add(step, answer, begins=not number)
            _write(spool, (number, step, answer))
    return evidence


def _numbered(sample: Sample) -> Iterator[tuple[int | None, Mapping[str, Any]]]:
    """The steps of a sequence with their numbers; inputs that are no sequence have none."""
    for number, step in enumerate(steps_of(sample)):
        yield None if isinstance(sample, Mapping) else number, step


def _side_by_side(
    original: Source,
    compressed: Source,
    load: Callable[[Source], Runnable],
    inputs: Callable[[Runnable], Iterable[Sample]],
    words: Find,
    watch: Watch | None,
) -> Result:
    """Compare what is computed on the way, too: the values of one step wait in a file, not those of all."""
    one, other = load(original), load(compressed)
    evidence = Evidence(one.interface, _domains(one))
    names = _common([feature.name for feature in one.interface.outputs], other)
    compared = _Compared(names, other, words(evidence.interface, evidence.domains))
    values: dict[str, Sums] = {}
    for sample in inputs(one):
        states = one.make_state(), other.make_state()
        for number, step in _numbered(sample):
            with _spool() as spool:
                places: dict[str, list[int]] = {}
                expected = one.predict(step, states[0], _keep(spool, places))
                found = other.predict(step, states[1], _compare_values(spool, places, values))
            compared.add(number, step, expected, found)
            evidence.add(step, expected, begins=not number)
            if watch is not None:
                watch(step, expected, found)
    kinds = one.kinds()
    return evidence, compared, tuple(sums.row(name, kinds.get(name, "")) for name, sums in values.items())


def _common(names: Iterable[str], program: Runnable) -> list[str]:
    """Of the outputs that are compared, those that the other model has, too: stages may have other names."""
    known = {feature.name for feature in program.interface.outputs}
    common = [name for name in names if name in known]
    if not common:
        raise ConfigError(f"the models have different stages; one gives {', '.join(names)}, which the other does not")
    return common


def _compare(
    outputs: dict[str, Sums], expected: Mapping[str, Any], found: Mapping[str, Any], program: Runnable
) -> None:
    boxes: tuple[str, ...] = getattr(program, "detections", None) or ()
    boxes = boxes if set(boxes) <= outputs.keys() else ()
    if boxes:
        before, now, both = paired(*((one[boxes[0]], one[boxes[1]]) for one in (expected, found)))
        confidence, coordinates = boxes
        outputs[confidence].add(before[0], now[0], both)
        outputs[coordinates].add(before[1], now[1], both, choices=False)
    # The largest of four coordinates is no choice.
    raw_coordinates = getattr(program, "shown_coordinates", "")
    for name, sums in outputs.items():
        if name not in boxes:
            sums.add_output(name, expected[name], found[name], choices=name != raw_coordinates)


def _keep(spool: IO[bytes], places: dict[str, list[int]]) -> Callable[[str, Any], None]:
    """Writes each value that it is called with; `places`: where. A loop computes a name many times."""

    def observe(name: str, value: Any) -> None:
        places.setdefault(name, []).append(spool.tell())
        _write(spool, numbers(value))

    return observe


def _compare_values(
    spool: IO[bytes], places: dict[str, list[int]], values: dict[str, Sums]
) -> Callable[[str, Any], None]:
    """Compares each value with the one that was kept: each round of a loop with the same round."""

    def observe(name: str, value: Any) -> None:
        rounds = places.get(name)
        if not rounds:
            return
        spool.seek(rounds.pop(0))
        before, now = pickle.load(spool), numbers(value)
        if before is not None and now is not None and before.shape == now.shape:
            values.setdefault(name, Sums()).add(before, now)

    return observe


@contextmanager
def _spool() -> Iterator[IO[bytes]]:
    """A place for what waits; nobody else can read or write it, so that `pickle` may be trusted with it."""
    with tempfile.SpooledTemporaryFile(_IN_MEMORY) as file:
        yield file


def _write(spool: IO[bytes], value: Any) -> None:
    pickle.dump(value, spool, protocol=pickle.HIGHEST_PROTOCOL)


def _read(spool: IO[bytes]) -> Iterator[Any]:
    end = spool.tell()
    spool.seek(0)
    while spool.tell() < end:
        yield pickle.load(spool)
