"""What a rule is, and what one finds: a form, an operation or an input that is valid, but of which somebody reported
that a device gets it wrong, is slow with it, or gains nothing from it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple, get_args

from corepress.errors import ConfigError

Severity = Literal["wrong", "slow", "no gain"]
Device = Literal["ane", "gpu", "cpu"]

SEVERITIES: tuple[Severity, ...] = get_args(Severity)
_NAMED = 3
DEVICES: dict[Device, str] = {"ane": "Neural Engine", "gpu": "GPU", "cpu": "CPU"}


class Rule(NamedTuple):
    """A valid form, operation or input of which a device is reported to make little.

    Nothing of it was measured on a device by corepress: `threads` say who did, and on which one.

    Args:
        id: Short, stable, in kebab-case.
        severity: "wrong" (answers that are wrong, or a crash), "slow", or "no gain".
        title: What is found, in a few words.
        known: What was reported, in plain words.
        instead: What to do about it.
        devices: Which parts of the chip it concerns: "ane" (the Neural Engine), "gpu", "cpu".
        since: The system on which it was seen first or, where no report names one, the one that brought the form.
        threads: The addresses of the reports.

    Examples:
        >>> from corepress.linting import RULES
        >>> rule = next(rule for rule in RULES if rule.id == "scale-over-lut")
        >>> rule.severity, rule.devices, rule.since
        ('wrong', ('ane',), 'macOS 26')
    """

    id: str
    severity: Severity
    title: str
    known: str
    instead: str
    devices: tuple[Device, ...]
    since: str
    threads: tuple[str, ...]

    def speaks_of(self, device: Device | None) -> bool:
        """Whether it concerns a device; None stands for any."""
        return device is None or device in self.devices


class Finding(NamedTuple):
    """A place of a model to which a rule applies.

    Args:
        rule: The rule.
        function: The function of the program, after the name of its stage; empty for a neural network.
        kind: What the place is: "weight", "operation", "constant", "input", "state" or "function".
        name: Its name.
        found: What was found there, in a few words.

    Examples:
        >>> finding = cto.lint("small.mlpackage").items[0]
        >>> finding.kind, finding.found
        ('weight', 'one table of 16 entries')
    """

    rule: Rule
    function: str
    kind: str
    name: str
    found: str


class Group(NamedTuple):
    """What one rule found in a model; its text names the first few places, and says what is known and what to do."""

    rule: Rule
    findings: tuple[Finding, ...]

    @property
    def places(self) -> str:
        """The first few places, and how many more there are."""
        named = [f"{finding.name} ({finding.found})" for finding in self.findings[:_NAMED]]
        more = f" and {len(self.findings) - _NAMED} more" if len(self.findings) > _NAMED else ""
        return f"{self.findings[0].kind} {', '.join(named)}{more}"

    def __str__(self) -> str:
        return f"{self.places}. {self.rule.known} {self.rule.instead}"


def grouped(findings: Iterable[Finding]) -> list[Group]:
    """By rule, those of wrong answers first."""
    found: dict[Rule, list[Finding]] = {}
    for finding in ordered(findings):
        found.setdefault(finding.rule, []).append(finding)
    return [Group(rule, tuple(places)) for rule, places in found.items()]


def checked_device(device: str | None) -> Device | None:
    """A device, as it was given; a ConfigError for an unknown one."""
    if device is None:
        return None
    for known in DEVICES:
        if device.lower() == known:
            return known
    raise ConfigError(f"device must be {', '.join(DEVICES)} or nothing, not {device!r}")


def ordered(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """By severity, each in the order in which it was found."""
    return tuple(sorted(findings, key=lambda finding: SEVERITIES.index(finding.rule.severity)))
