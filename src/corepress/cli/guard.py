"""The one guard around every command: whatever goes wrong becomes a sentence and an exit code, never a traceback."""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import click

from corepress.cli import streams
from corepress.cli.words import translate
from corepress.errors import ConfigError, CorepressError, FormatError, Missed, MissingDependencyError

# Shows the traceback of every failure, for those who look for its cause.
TRACEBACK = "COREPRESS_TRACEBACK"
_REPORT = f"please report it, with what the command prints when {TRACEBACK}=1 is in its environment"
_SHOWN = 200
_MOMENT = 0.01


@dataclass(frozen=True)
class Failure:
    """How a command failed: a word for programs, a sentence for people, and the exit code."""

    kind: str
    message: str
    exit_code: int


class Terminated(KeyboardInterrupt):
    """SIGTERM, which stops a command as Ctrl-C does."""


class Carried(Exception):
    """An error on its way past click, which would end a closed pipe and Ctrl-C in its own way."""


class Guarded(click.Group):
    """All commands, each made when it is needed; what they raise arrives at `run` as it is."""

    def __init__(self, **settings: Any):
        super().__init__(**settings)
        self._makers: dict[str, Callable[[], click.Command]] = {}

    def declare(self, name: str, make: Callable[[], click.Command]) -> None:
        """Add a command. Its options are many, so that it is made on first use."""
        self._makers[name] = make

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._makers)  # in the order in which one needs them

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.commands and cmd_name in self._makers:
            self.add_command(self._makers[cmd_name]())
        return super().get_command(ctx, cmd_name)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (BrokenPipeError, KeyboardInterrupt) as error:
            raise Carried from error

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        unknown = self.get_command(ctx, args[0]) is None and not args[0].startswith("-")
        if unknown and not ctx.resilient_parsing:  # a shell that asks what could follow gets no answer
            from difflib import get_close_matches

            near = get_close_matches(args[0][:_SHOWN], self._makers, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"The commands are {', '.join(self._makers)}."
            ctx.fail(f"No such command {args[0]!r}. {hint}")
        return super().resolve_command(ctx, args)


def run(command: Callable[..., int | None]) -> int:
    """Run the command on what `sys.argv` holds, and return its exit code."""
    _prepare_process()
    code, failure = 0, None
    try:
        code = command(prog_name="corepress", standalone_mode=False) or 0
    except SystemExit as end:
        if end.code != 1:
            raise
        failure = failure_of(BrokenPipeError())  # so click ends where its help goes into a closed pipe
    except BaseException as error:
        if os.environ.get(TRACEBACK):
            import traceback

            traceback.print_exc()
        failure = failure_of(error.__cause__ if isinstance(error, Carried) and error.__cause__ else error)
    # From here on nothing is left to clean up, and a signal may end the process at once.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    return _tell(code, failure)


def failure_of(error: BaseException) -> Failure:
    """What to say of an error, and the exit code: 1 for `Missed`, 2 for wrong usage, 3 for all else."""
    import zipfile

    message = translate(str(error))
    if isinstance(error, Missed):
        return Failure("missed", message, 1)
    if isinstance(error, ConfigError):
        return Failure("usage", message, 2)
    if isinstance(error, click.ClickException):
        return Failure("usage", _usage(error), 2)
    if isinstance(error, MissingDependencyError):
        return Failure("missing", message, 3)
    if isinstance(error, FormatError):
        return Failure("format", message, 3)
    if isinstance(error, CorepressError):
        return Failure("failed", message, 3)
    if isinstance(error, KeyboardInterrupt):
        return Failure("interrupted", message or "stopped", 143 if isinstance(error, Terminated) else 130)
    if isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__ or "can't allocate memory" in message:
        return Failure("memory", "there is not enough memory for this", 3)
    if isinstance(error, RecursionError):
        return Failure("format", "the input is nested too deeply to be read", 3)
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("corepress"):
        name = error.name.partition(".")[0]
        return Failure("missing", f"{name} is not installed: pip install {name}", 3)
    if isinstance(error, zipfile.BadZipFile):
        return Failure("format", "a file of arrays (.npz) is damaged", 3)
    if isinstance(error, BrokenPipeError):
        return Failure("pipe", "", 3)
    if isinstance(error, OSError):
        reason = error.strerror or message or type(error).__name__
        return Failure("system", f"{error.filename or 'the operating system reports'}: {reason}", 3)
    cause = f"{type(error).__name__}: {message[:_SHOWN]}"
    return Failure("unforeseen", f"an unexpected error occurred ({cause}); {_REPORT}", 3)


def _usage(error: Any) -> str:
    """The message of click in the form of ours, and where to read on."""
    message = error.format_message().strip().rstrip(".")
    context = getattr(error, "ctx", None)
    return f"{message} (see {context.command_path} --help)" if context is not None else message


def _prepare_process() -> None:
    def terminate(number: int, frame: object) -> NoReturn:
        raise Terminated

    signal.signal(signal.SIGTERM, terminate)
    sys.unraisablehook = _not_lost
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # those of libraries are for programmers
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by who began this; else a file of ours would get its number
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115  (open as long as the process is)
    for stream in (sys.stdout, sys.stderr):
        # A name that the terminal can't show must not stop a command.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    streams.collect_warnings()


def _not_lost(unraisable: Any) -> None:
    """Ctrl-C inside of a callback or `__del__`, where Python drops it, counts all the same, a moment later."""
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        number = signal.SIGTERM if issubclass(unraisable.exc_type, Terminated) else signal.SIGINT
        again = threading.Timer(_MOMENT, _interrupt_main, [number])
        again.daemon = True
        again.start()
    elif os.environ.get(TRACEBACK):
        sys.__unraisablehook__(unraisable)


def _interrupt_main(number: signal.Signals) -> None:
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident or 0, number)  # wakes it, should it sleep
    else:
        _thread.interrupt_main(number)


def _tell(code: int, failure: Failure | None) -> int:
    """Print the JSON and the sentence of a failure; where nothing can be printed, the exit code has to do."""
    as_json = "--json" in sys.argv[1:]
    document = streams.finished(None if failure is None else vars(failure)) if as_json else ""
    if (trouble := _print(document, sys.stdout)) is not None and failure is None:
        failure = failure_of(trouble)
    if failure is None:
        return code
    if failure.message:
        _print(f"corepress: {failure.message}", sys.stderr)
    return failure.exit_code


def _print(text: str, stream: Any) -> OSError | None:
    """Print, if there is anything, and flush; a stream that can't be written to is given up, and the error returned."""
    try:
        if text:
            print(text, file=stream)
        stream.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return error
    return None
