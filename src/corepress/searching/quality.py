"""How good a choice is: its answers beside the original's, by the metrics of `verify` or one of the caller's."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

from corepress.errors import ConfigError, CorepressError
from corepress.language import Predictions, with_predictions
from corepress.metrics import METRICS, Sums, worst
from corepress.searching.subject import Subject
from corepress.sequences import Sample, steps_of

# By name; the worst output counts.
Quality = dict[str, float]
# A function of the outputs for a sample and the sample, or of the loaded model; more is better.
Metric = Callable[..., Any]
_METRICS = ("snr", "cosine", "top1", "kl", "perplexity")


def name_of(metric: Metric | None) -> str:
    """What the quality by a metric of the caller's is called: as the function, but never as one of ours."""
    name = "" if metric is None else getattr(metric, "__name__", "metric")
    return f"your {name}" if name in METRICS else name


class Judge:
    """Measures models of a subject on samples.

    `metric`: the caller's, or None. `name`: what it is called. Answers of the original are computed once.
    """

    def __init__(self, subject: Subject, samples: Sequence[Sample], metric: Metric | None = None, name: str = ""):
        self.subject, self.samples, self.metric, self.name = subject, samples, metric, name
        self._whole = metric is not None and _takes_model(metric)
        original = subject.loaded(None)
        self._exact = [subject.answer(original, sample) for sample in samples]
        self.before = math.nan if metric is None else self._own(original, [])

    def measure(self, model: Any) -> Quality:
        """The quality of a model that the subject made."""
        loaded = self.subject.loaded(model)
        sums: dict[str, Sums] = {}
        predictions = None if self.subject.words is None else Predictions(self.subject.words)
        answers = []
        for exact, sample in zip(self._exact, self.samples, strict=True):
            answer = self.subject.answer(loaded, sample)
            answers.append(answer)
            steps = zip(steps_of(sample), steps_of(exact), steps_of(answer), strict=True)
            for number, (inputs, before, now) in enumerate(steps):
                if predictions is not None:
                    predictions.add(number, inputs, before, now)
                for name, value in before.items():
                    sums.setdefault(name, Sums()).add_output(name, value, now[name])
        rows = [found.row(name) for name, found in sums.items()]
        if predictions is not None:
            rows = [with_predictions(row, predictions.whole) if row.name == predictions.logits else row for row in rows]
        quality: Quality = {}
        for metric in _METRICS:
            if (value := worst(rows, metric)) is not None:
                quality[metric] = value
        if self.metric is not None:
            quality[self.name] = self._own(loaded, answers)
        return quality

    def _own(self, loaded: Any, answers: Sequence[Any]) -> float:
        """The caller's metric: of the model, or its mean over the samples."""
        assert self.metric is not None
        if self._whole:
            return self._number(lambda metric: metric(loaded))
        answers = answers or [self.subject.answer(loaded, sample) for sample in self.samples]
        pairs = zip(answers, self.samples, strict=True)
        found = [self._number(lambda metric, pair=pair: metric(*pair)) for pair in pairs]  # type: ignore[misc]
        return math.fsum(found) / len(found)

    def _number(self, call: Callable[[Metric], Any]) -> float:
        assert self.metric is not None
        try:
            value = float(call(self.metric))
        except CorepressError:
            raise
        except Exception as error:
            raise ConfigError(f"the metric {self.name} raised {type(error).__name__}: {error}") from error
        if not math.isfinite(value):
            raise ConfigError(f"the metric {self.name} gave {value}: it must be a finite number, more of it better")
        return value


def check_metric(subject: Subject, sample: Sample, metric: str) -> None:
    """Raise ConfigError where no output of a model has one of our metrics."""
    if metric not in Judge(subject, [sample]).measure(None):
        raise ConfigError(f"no output of this model has the metric {metric}, by which is searched")


def _takes_model(metric: Metric) -> bool:
    """Whether a metric is one of the model as a whole: it has a single argument."""
    try:
        parameters = inspect.signature(metric).parameters.values()
    except (TypeError, ValueError):
        return False
    needed = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return len(needed) == 1
