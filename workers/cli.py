"""`shmq`: start a broker or a name server, look at a running one, read its files and settings.

Exit codes: 0 done, 1 it failed, 2 wrong arguments or settings. What a program may read goes to
standard output, everything else to standard error.
"""

from __future__ import annotations

import itertools
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from shmq import __version__
from shmq.errors import ConfigError, ShmqError

if TYPE_CHECKING:
    from collections.abc import Callable

    from shmq.workers.conffile import SettingsSource

EXIT_FAILED: Final = 1
EXIT_WRONG: Final = 2
HOST_PORT: Final = re.compile(r"^(?P<host>\[[0-9a-fA-F:.]+\]|[^:\[\]]*):(?P<port>[0-9]{1,5})$")


class _Failed(click.ClickException):
    """It failed: one line on standard error."""

    exit_code = EXIT_FAILED

    def show(self, file: Any = None) -> None:
        click.echo(f"shmq: {self.message}", file=file, err=True)


class _Wrong(_Failed):
    """Something in the settings is wrong."""

    exit_code = EXIT_WRONG


class _Commands(click.Group):
    """Turns the project's errors into exit codes; lists commands in the order of this file."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ConfigError as error:
            raise _Wrong(str(error)) from error
        except ShmqError as error:
            raise _Failed(str(error)) from error

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  click's signature
        return list(self.commands)


def _host_port(
    _ctx: click.Context, _param: click.Parameter, value: str | None
) -> tuple[str, str] | None:
    """HOST:PORT; an empty host means all addresses, an IPv6 address stands in brackets."""
    if value is None:
        return None
    match = HOST_PORT.match(value)
    if match is None:
        raise click.BadParameter(f"{value!r} is not HOST:PORT, for example 127.0.0.1:10911")
    host = match["host"].removeprefix("[").removesuffix("]")
    return (host or "0.0.0.0", match["port"])  # noqa: S104  no host means all addresses


def _key_values(
    _ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]
) -> tuple[tuple[str, str], ...]:
    """KEY=VALUE each, as a line of broker.conf."""
    pairs = []
    for one in values:
        key, equals, text = one.partition("=")
        if not (key.strip() and equals):
            raise click.BadParameter(f"{one!r} is not KEY=VALUE, for example listenPort=10911")
        pairs.append((key.strip(), text.strip()))
    return tuple(pairs)


def _settings_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that every command with settings takes."""
    options = (
        click.option(
            "-c",
            "--config",
            "conf",
            type=click.Path(path_type=Path),
            help="Settings file, in the form of RocketMQ's broker.conf.",
        ),
        click.option(
            "--set",
            "pairs",
            metavar="KEY=VALUE",
            callback=_key_values,
            multiple=True,
            help="One setting, stronger than the file; may be repeated.",
        ),
        click.option("--store", type=click.Path(), help="Folder of the store (storePathRootDir)."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _source(
    conf: Path | None, pairs: tuple[tuple[str, str], ...], **given: str | None
) -> SettingsSource:
    """Where the settings come from; `given` are keys that have an option of their own."""
    from shmq.workers.conffile import SettingsSource

    overrides = dict(pairs) | {key: value for key, value in given.items() if value is not None}
    return SettingsSource(conf.absolute() if conf else None, overrides, os.environ)


def _warn(warnings: list[str]) -> None:
    for warning in warnings:
        click.echo(f"shmq: warning: {warning}", err=True)


def _absolute(path: str | None) -> str | None:
    return None if path is None else str(Path(path).absolute())


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Settings: `shmq config --keys`. Every command explains itself: `shmq COMMAND --help`.",
)
@click.version_option(__version__, prog_name="shmq")
def cli() -> None:
    """A message broker for one host that speaks RocketMQ's protocol and store format."""


@cli.command()
@_settings_options
@click.option(
    "--listen",
    metavar="HOST:PORT",
    callback=_host_port,
    help="Where clients connect (bindAddress, listenPort).",
)
@click.option(
    "--namesrv-listen",
    metavar="HOST:PORT",
    callback=_host_port,
    help="Where the name server listens.",
)
@click.option("--socket", type=click.Path(), help="Unix socket for clients on this host.")
@click.option("--json", "as_json", is_flag=True, help="Print the ready line as JSON.")
def standalone(
    conf: Path | None,
    pairs: tuple[tuple[str, str], ...],
    store: str | None,
    listen: tuple[str, str] | None,
    namesrv_listen: tuple[str, str] | None,
    socket: str | None,
    as_json: bool,
) -> None:
    """Run a broker with its own name server, in the foreground.

    One line on standard output says when it serves, and where.

    \b
    Examples:
      shmq standalone
      shmq standalone --store /var/lib/shmq --listen 127.0.0.1:10911
      shmq standalone -c broker.conf --set flushDiskType=SYNC_FLUSH
    """
    source = _source(
        conf,
        pairs,
        storePathRootDir=_absolute(store),
        bindAddress=listen and listen[0],
        listenPort=listen and listen[1],
        namesrvBindAddress=namesrv_listen and namesrv_listen[0],
        namesrvListenPort=namesrv_listen and namesrv_listen[1],
        socketPath=_absolute(socket),
    )
    _run_broker(source, as_json=as_json, standalone_mode=True)


@cli.command()
@_settings_options
@click.option("-n", "--namesrv", help="Name servers, HOST:PORT, separated by `;` (namesrvAddr).")
@click.option(
    "--listen",
    metavar="HOST:PORT",
    callback=_host_port,
    help="Where clients connect (bindAddress, listenPort).",
)
@click.option("--socket", type=click.Path(), help="Unix socket for clients on this host.")
@click.option("--json", "as_json", is_flag=True, help="Print the ready line as JSON.")
def broker(
    conf: Path | None,
    pairs: tuple[tuple[str, str], ...],
    store: str | None,
    namesrv: str | None,
    listen: tuple[str, str] | None,
    socket: str | None,
    as_json: bool,
) -> None:
    """Run a broker that registers with name servers, in the foreground.

    \b
    Examples:
      shmq broker -c broker.conf
      shmq broker -c broker.conf -n '10.0.0.1:9876;10.0.0.2:9876'
    """
    source = _source(
        conf,
        pairs,
        storePathRootDir=_absolute(store),
        namesrvAddr=namesrv,
        bindAddress=listen and listen[0],
        listenPort=listen and listen[1],
        socketPath=_absolute(socket),
    )
    _run_broker(source, as_json=as_json, standalone_mode=False)


def _run_broker(source: SettingsSource, *, as_json: bool, standalone_mode: bool) -> None:
    from shmq.config import check_embedded_namesrv

    settings = source.read()
    _warn(source.warnings)
    if standalone_mode:
        check_embedded_namesrv(settings)
    from shmq.workers.supervisor import run_broker

    code = run_broker(
        settings, standalone=standalone_mode, json_ready=as_json, load_settings=source.read
    )
    click.get_current_context().exit(code)


@cli.command()
@_settings_options
@click.option("-p", "--port", type=click.IntRange(0, 65535), help="Port; 9876 if not given.")
@click.option("--listen", metavar="HOST:PORT", callback=_host_port, help="Address and port in one.")
@click.option("--json", "as_json", is_flag=True, help="Print the ready line as JSON.")
def namesrv(
    conf: Path | None,
    pairs: tuple[tuple[str, str], ...],
    store: str | None,
    port: int | None,
    listen: tuple[str, str] | None,
    as_json: bool,
) -> None:
    """Run a name server alone, in the foreground.

    \b
    Examples:
      shmq namesrv
      shmq namesrv -p 9876
      shmq namesrv --listen 10.0.0.1:9876
    """
    if port is not None and listen is not None:
        raise click.UsageError("--port and --listen both name a port; give one of them")
    if port is None and listen is not None:
        port = int(listen[1])
    source = _source(
        conf,
        pairs,
        storePathRootDir=_absolute(store),
        namesrvListenPort=None if port is None else str(port),
        namesrvBindAddress=listen and listen[0],
    )
    settings = source.read()
    _warn(source.warnings)
    from shmq.workers.supervisor import run_namesrv

    code = run_namesrv(settings, json_ready=as_json, load_settings=source.read)
    click.get_current_context().exit(code)


@cli.command()
@_settings_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def status(
    conf: Path | None,
    pairs: tuple[tuple[str, str], ...],
    store: str | None,
    as_json: bool,
) -> None:
    """Show the broker that runs on a store; exit code 1 when none runs.

    \b
    Examples:
      shmq status --store /var/lib/shmq
      shmq status -c broker.conf --json
    """
    source = _source(conf, pairs, storePathRootDir=_absolute(store))
    from shmq.workers.status import as_text, collect

    found = collect(source.read())
    click.echo(_json(found) if as_json else as_text(found))


@cli.group(cls=_Commands)
def retention() -> None:
    """Show what becomes of old commitlog files.

    \b
    Examples:
      shmq retention explain --store /var/lib/shmq
    """


@retention.command()
@_settings_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def explain(
    conf: Path | None,
    pairs: tuple[tuple[str, str], ...],
    store: str | None,
    as_json: bool,
) -> None:
    """Say which commitlog files go, when and why; nothing is deleted.

    Give the settings that the broker has: -c, --set. A running broker is asked nothing, so it
    answers for a stuck or a stopped one as well.

    \b
    Examples:
      shmq retention explain --store /var/lib/shmq
      shmq retention explain -c broker.conf --json
      shmq retention explain -c broker.conf --set storeQuotaBytes=10737418240    what if
    """
    source = _source(conf, pairs, storePathRootDir=_absolute(store))
    from shmq.workers.retentionreport import as_text, collect

    found = collect(source.read())
    _warn(source.warnings)
    click.echo(_json(found) if as_json else as_text(found))


@cli.command()
@click.argument("target", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@click.option("--limit", type=click.IntRange(min=1), help="Stop after so many records or entries.")
@click.option(
    "--from", "first", type=click.IntRange(min=0), default=0, help="Skip records or entries before."
)
@click.option("--body", is_flag=True, help="Show the bodies of messages too.")
def dump(target: str, as_json: bool, limit: int | None, first: int, body: bool) -> None:
    """Print a store file or a shared segment as text.

    TARGET is a file of the commitlog, of a consumequeue or of the index, `checkpoint`, a JSON
    table, the offsets journal, a folder of such files, or a segment's name as `shmq status` shows
    it. What is damaged is shown as such, and there the file's dump ends.

    --from counts bytes of the file in a commitlog, entries elsewhere. In a folder with one row of
    files it is a physical offset or a queue offset.

    \b
    Examples:
      shmq dump /var/lib/shmq/commitlog/00000000000000000000 --limit 10
      shmq dump /var/lib/shmq/commitlog --from 1073741824 --limit 1 --body
      shmq dump /var/lib/shmq/consumequeue/orders/0 --json
      shmq dump /var/lib/shmq/checkpoint
      shmq dump /shmq.0123456789.control
    """
    from shmq.dump import dump as lines_of
    from shmq.dump import line

    items = lines_of(target, first=first, with_body=body)
    for item in itertools.islice(items, limit):
        click.echo(_json(item) if as_json else line(item))


@cli.command("reset-offset")
@_settings_options
@click.option("-a", "--address", help="Broker or name servers; else the broker on the store.")
@click.option("-t", "--topic", required=True, help="Topic.")
@click.option("-g", "--group", required=True, help="Consume group.")
@click.option(
    "--time",
    "moment",
    required=True,
    metavar="TIME",
    help="ISO 8601 (local time without a zone), ms since the epoch, earliest, or latest (-1).",
)
@click.option("-q", "--queue", "queue_id", type=click.IntRange(min=0), help="This queue alone.")
@click.option("-f", "--force", is_flag=True, help="Move forward too, which skips messages.")
@click.option("--dry-run", is_flag=True, help="Only show what it would do.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def reset_offset(
    conf: Path | None,
    pairs: tuple[tuple[str, str], ...],
    store: str | None,
    address: str | None,
    topic: str,
    group: str,
    moment: str,
    queue_id: int | None,
    force: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Have a group consume a topic again, from a moment on, whether it runs or not.

    Running consumers go back by themselves, and what they still commit from before does not count.
    Shows each queue's committed offset before and after. Without --force no queue moves forward.

    \b
    Examples:
      shmq reset-offset -t orders -g billing --time 2026-01-31T08:15:00.250 --dry-run
      shmq reset-offset -t orders -g billing --time earliest -q 3
      shmq reset-offset -t orders -g billing --time latest --force
    """
    from shmq.workers import resetoffset

    target = resetoffset.read_time(moment)
    if address is None:
        settings = _source(conf, pairs, storePathRootDir=_absolute(store)).read()
        address = resetoffset.local_address(settings)
    found = resetoffset.carry_out(
        address,
        group=group,
        topic=topic,
        target=target,
        queue_id=queue_id,
        force=force,
        dry_run=dry_run,
    )
    if as_json:
        click.echo(_json(resetoffset.as_json(found)))
    else:
        click.echo(resetoffset.as_text(found, dry_run=dry_run))


@cli.command()
@_settings_options
@click.option("--jobs", type=click.IntRange(min=1), help="Processes; one a CPU if not given.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def verify(
    conf: Path | None,
    pairs: tuple[tuple[str, str], ...],
    store: str | None,
    jobs: int | None,
    as_json: bool,
) -> None:
    """Examine a whole store, ours or Apache's; changes nothing.

    Every record of the commitlog, every consumequeue entry against its record, the index, the
    checkpoint, and the tables. Of a running broker's store only what is on the disk when it begins.

    Exit codes: 0 sound, 1 damage found, 2 wrong usage or no store. Warnings and notes are no
    damage.

    \b
    Examples:
      shmq verify --store /var/lib/shmq
      shmq verify -c broker.conf --jobs 1 --json
    """
    from shmq.workers import storetools

    settings = _source(conf, pairs, storePathRootDir=_absolute(store)).read()
    is_sound = storetools.verify(settings, jobs=jobs, as_json=as_json)
    click.get_current_context().exit(0 if is_sound else EXIT_FAILED)


@cli.command()
@_settings_options
@click.option("-t", "--topic", required=True, help="Topic of the messages.")
@click.option("--queue", "queue_id", type=click.IntRange(min=0), help="One queue of the topic.")
@click.option("--key", help="Only with this key, unique key or message id.")
@click.option("--since", metavar="TIME", help="Only stored then or later.")
@click.option("--until", metavar="TIME", help="Only stored then or before.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["jsonl", "json", "raw", "bodies"]),
    default="jsonl",
    show_default=True,
    help="One JSON object a line, a JSON array, records as stored, or bodies with a line end each.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Stop after so many messages.")
def export(
    conf: Path | None,
    pairs: tuple[tuple[str, str], ...],
    store: str | None,
    form: str,
    limit: int | None,
    **selection: Any,
) -> None:
    """Print messages of a topic from a store's files, in the order in which they were stored.

    The store may be Apache's, and a broker may run on it; nothing is changed. Bodies are
    decompressed; in JSON they are text, or base64 where they are none. A topic that was deleted is
    found too, as long as the commitlog has its messages.

    TIME: 2026-11-26, 2026-11-26T08:15:00 (UTC) or with +02:00, 30m, 2h or 7d ago, or ms since 1970.

    Exit codes: 0 done, 1 damaged messages were left out (see `shmq verify`), 2 wrong usage, no
    store or no such topic.

    \b
    Examples:
      shmq export --store /var/lib/shmq -t orders | head
      shmq export --store /var/lib/shmq -t orders --key 4711 --since 2h
      shmq export -c broker.conf -t orders --queue 0 --format raw > orders.records
    """
    from shmq.workers import storetools

    settings = _source(conf, pairs, storePathRootDir=_absolute(store)).read()
    is_whole = storetools.export(settings, form=form, limit=limit, **selection)
    click.get_current_context().exit(0 if is_whole else EXIT_FAILED)


@cli.command()
@_settings_options
@click.option("--check", is_flag=True, help="Only say whether the settings are right (exit code).")
@click.option("--keys", is_flag=True, help="List every key with its default and meaning.")
@click.option("--explain", metavar="KEY", help="Say everything about one key.")
@click.option("--changed", is_flag=True, help="Show only what differs from the defaults.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def config(
    conf: Path | None,
    pairs: tuple[tuple[str, str], ...],
    store: str | None,
    check: bool,
    keys: bool,
    explain: str | None,
    changed: bool,
    as_json: bool,
) -> None:
    """Show the settings that hold, explain them, or check a file.

    \b
    Examples:
      shmq config -c broker.conf              the settings that hold, worked-out ones too
      shmq config -c broker.conf --check      exit code 0: right, 2: wrong
      shmq config --explain flushDiskType
      shmq config --keys --json
    """
    from shmq.workers import showconfig

    if sum((check, keys, explain is not None)) > 1:
        raise click.UsageError("--check, --keys and --explain exclude each other")
    if keys:
        click.echo(_json(showconfig.keys()) if as_json else showconfig.keys_text())
        return
    if explain is not None:
        click.echo(_json(showconfig.key(explain)) if as_json else showconfig.key_text(explain))
        return
    source = _source(conf, pairs, storePathRootDir=_absolute(store))
    settings = source.read()
    if as_json:
        click.echo(_json(showconfig.holding(settings, source.warnings, changed=changed)))
        return
    _warn(source.warnings)
    if check:
        click.echo(f"right: {conf or 'no file, the defaults hold'}")
    else:
        click.echo(showconfig.holding_text(settings, changed=changed), nl=False)


def _json(value: object) -> str:
    import orjson

    return orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


def main() -> None:
    """Entry point of `shmq`."""
    cli(prog_name="shmq")


if __name__ == "__main__":
    main()
