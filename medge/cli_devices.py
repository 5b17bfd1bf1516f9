"""`medge devices`: the command line of the device book."""

from __future__ import annotations

from typing import Annotated

import typer

from medge.cli_options import Json, finish

__all__ = ["devices_app"]

devices_app = typer.Typer(help="Other machines to measure on, over ssh; `local` is this one.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="A device of the book, or the kind of the only one.")]


@devices_app.command("add")
def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What you will call it, e.g. cart7.")],
    url: Annotated[str | None, typer.Argument(metavar="[ssh://USER@HOST:PORT]", help="Where it is.")] = None,
    kind: Annotated[str, typer.Option(help="linux, jetson, raspberrypi or intel.")] = "linux",
    identity: Annotated[str | None, typer.Option(metavar="FILE", help="A key; else agent and ssh config.")] = None,
    folder: Annotated[str | None, typer.Option(metavar="PATH", help="For jobs there; else ~/.cache/medge.")] = None,
    python: Annotated[str, typer.Option(metavar="PATH", help="The interpreter there that has numpy.")] = "python3",
    offline: Annotated[bool, typer.Option("--offline", help="It has no network: jobs go by a stick.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Accept the fingerprint that is shown.")] = False,
    json: Json = False,
) -> None:
    """Record a machine, and the key of its host after showing the fingerprint."""
    from medge import device_commands
    from medge.device_book import Device

    device = Device(name, kind, "", identity=identity, folder=folder, python=python)

    def ask(question: str) -> bool:
        return device_commands.is_terminal() and typer.confirm(question, err=True)

    finish(device_commands.add(device, url, accept=yes, ask=ask, offline=offline), json)


@devices_app.command("list")
def list_(json: Json = False) -> None:
    """The machines that --device can name."""
    from medge import device_commands

    finish(device_commands.list_devices(), json)


@devices_app.command("doctor")
def doctor(name: Name, json: Json = False) -> None:
    """Is it ready? Link, Python, packages, space, permission, clock, kind; each problem with its fix."""
    from medge import device_commands

    finish(device_commands.doctor(name), json)


@devices_app.command("clean")
def clean(name: Name, json: Json = False) -> None:
    """Remove the engines that jobs keep there so as not to send them twice."""
    from medge import device_commands

    finish(device_commands.clean(name), json)


@devices_app.command("remove")
def remove(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A device of the book.")], json: Json = False
) -> None:
    """Forget a machine."""
    from medge import device_commands

    finish(device_commands.remove(name), json)
