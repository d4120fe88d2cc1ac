"""Makes the generated documents: `python docs/make.py`, and with --check only looks.

    document      made from
    settings.md   the settings table, shmq/config/table.py
    commands.md   the help texts of `shmq`, workers/cli.py

--check changes nothing; exit code 1 when a document is stale.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from shmq.config.describe import as_markdown
from shmq.workers.cli import cli

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

FOLDER: Final = Path(__file__).resolve().parent
HELP_WIDTH: Final = 100
COMMANDS_HEAD: Final = """\
# Commands

Made from the help texts (`workers/cli.py`) by `make docs`; do not edit.

Exit codes: 0 done, 1 it failed, 2 wrong arguments or settings. What a program may read goes to
standard output, everything else to standard error.
"""


def commands() -> str:
    """docs/commands.md."""
    settings = {**cli.context_settings, "terminal_width": HELP_WIDTH}
    top = click.Context(cli, info_name="shmq", **settings)
    parts = [COMMANDS_HEAD, _help("shmq", cli, top)]
    for name in cli.list_commands(top):
        command = cli.commands[name]
        inner = click.Context(command, parent=top, info_name=name, **settings)
        parts.append(_help(f"shmq {name}", command, inner))
        if isinstance(command, click.Group):
            for part in command.list_commands(inner):
                context = click.Context(
                    command.commands[part], parent=inner, info_name=part, **settings
                )
                parts.append(_help(f"shmq {name} {part}", command.commands[part], context))
    return "\n".join(parts)


def _help(title: str, command: click.Command, context: click.Context) -> str:
    text = "\n".join(line.rstrip() for line in command.get_help(context).splitlines())
    return f"## {title}\n\n```\n{text}\n```\n"


DOCUMENTS: Final[Mapping[str, Callable[[], str]]] = {
    "settings.md": as_markdown,
    "commands.md": commands,
}


def stale(folder: Path) -> list[str]:
    """Names of the documents in `folder` that are not what they would be made to be now."""
    return [
        name
        for name, made in DOCUMENTS.items()
        if not (folder / name).exists() or (folder / name).read_text() != made()
    ]


def main(arguments: Sequence[str]) -> int:
    """Make the documents, or with --check look whether they are as they should be."""
    if arguments not in ([], ["--check"]):
        print("usage: python docs/make.py [--check]", file=sys.stderr)
        return 2
    names = stale(FOLDER)
    if arguments:
        for name in names:
            print(f"docs/{name} is stale; `make docs` makes it anew", file=sys.stderr)
        return 1 if names else 0
    for name in names:
        (FOLDER / name).write_text(DOCUMENTS[name]())
        print(f"made docs/{name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
