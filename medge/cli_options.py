"""What the commands of the command line share: their common options, and how an outcome is printed."""

from __future__ import annotations

from typing import Annotated, Any

import typer

__all__ = ["Json", "Run", "Set", "finish"]

Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Run = Annotated[str | None, typer.Option("--run", metavar="NAME", help="The run under runs/; else the newest.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the recipe; may be repeated.")
]


def finish(outcome: Any, json: bool) -> None:
    """Prints an outcome; exit 5 where a gate did not pass."""
    if json:
        import json as standard

        typer.echo(standard.dumps(outcome.document, indent=2, allow_nan=False))
    else:
        outcome.show()
    if outcome.exit_code:
        raise typer.Exit(outcome.exit_code)
