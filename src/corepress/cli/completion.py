"""Completion of commands and options by the shell: click does it, and this tells the shell of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from corepress.errors import ConfigError

_VARIABLE = "_COREPRESS_COMPLETE"
# Where a shell looks: its own file for each program, or one file for all.
_FILES = {"bash": ".bashrc", "zsh": ".zshrc", "fish": ".config/fish/completions/corepress.fish"}


def option(flag: str, action: Callable[[click.Context, str], None], text: str) -> Callable[..., Any]:
    """An option that does something for a shell, the one that is named or the current one, and ends the command."""

    def callback(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
        if value is not None and not context.resilient_parsing:
            action(context, value or Path(os.environ.get("SHELL", "")).stem)
            context.exit()

    return click.option(
        flag, is_flag=False, flag_value="", metavar="[SHELL]", is_eager=True, expose_value=False, callback=callback,
        help=text,
    )  # fmt: skip


def show(context: click.Context, shell: str) -> None:
    """Print the script that a shell needs."""
    from click.shell_completion import get_completion_class

    _check(shell)
    completer = get_completion_class(shell)
    assert completer is not None
    print(completer(context.command, {}, "corepress", _VARIABLE).source())


def install(context: click.Context, shell: str) -> None:
    """Add to the shell's file the line that runs the script at its start."""
    file = Path.home() / _FILES[_check(shell)]
    script = f"{_VARIABLE}={shell}_source corepress"
    line = f"{script} | source" if shell == "fish" else f'eval "$({script})"'
    before = file.read_text() if file.exists() else ""
    if line not in before:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{before}{line}\n" if before.endswith("\n") or not before else f"{before}\n{line}\n")
    print(f"{file} has the line that completes `corepress`: begin a new shell to use it")


def _check(shell: str) -> str:
    if shell not in _FILES:
        given = f"{shell!r} is none of them" if shell else "the current shell is not known"
        raise ConfigError(f"completion is there for {', '.join(_FILES)}; {given}, so give one of these")
    return shell
