"""Completion of commands and options by the shell: click does it, and this tells the shell of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from corepress.errors import ConfigError

_VARIABLE = "_COREPRESS_COMPLETE"
# What a shell reads at its start; fish looks for a script of its own for each program.
_STARTED_BY = {"bash": ".bashrc", "zsh": ".zshrc", "fish": None}
_SCRIPT = {"fish": ".config/fish/completions/corepress.fish"}
# zsh completes nothing before this, which most configurations hold.
_FIRST = {"zsh": "(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }\n"}


def option(flag: str, action: Callable[[click.Context, str], None], text: str) -> Callable[..., Any]:
    """An option that does something for a shell, the one that is named or that of your logins, and ends the command."""

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
    print(_script(context, shell))


def install(context: click.Context, shell: str) -> None:
    """Write the script to a file, and add to the shell's own the line that reads it at its start."""
    script = Path.home() / _SCRIPT.get(shell, f".config/corepress/complete.{shell}")
    text = _script(context, shell)
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(text, "utf-8")
    if started_by := _STARTED_BY[shell]:
        _append_once(Path.home() / started_by, f"source '{script}'".encode())
    print(f"{script} completes `corepress`: begin a new shell to use it")


def _script(context: click.Context, shell: str) -> str:
    from click.shell_completion import get_completion_class

    completer = get_completion_class(_check(shell))
    assert completer is not None
    return _FIRST.get(shell, "") + completer(context.command, {}, "corepress", _VARIABLE).source()


def _append_once(file: Path, line: bytes) -> None:
    """Add a line to a file of the user's, of which the rest stays as it is, whatever it holds."""
    before = file.read_bytes() if file.exists() else b""
    if line not in before:
        with file.open("ab") as rest:
            rest.write((b"" if before.endswith(b"\n") or not before else b"\n") + line + b"\n")


def _check(shell: str) -> str:
    if shell not in _STARTED_BY:
        given = f"{shell!r} is none of them" if shell else "SHELL does not name yours"
        raise ConfigError(f"completion exists for {', '.join(_STARTED_BY)}; {given}: name one of them")
    return shell
