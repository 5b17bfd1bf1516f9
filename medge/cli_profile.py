"""`medge profile`: measuring here, on other machines, on several at once and by a stick."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medge.cli_options import Json, Run, Set, finish

__all__ = ["profile"]


def profile(
    device: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="local, a name or kind of the device book; several, or all:KIND, side by side."
        ),
    ] = None,
    export: Annotated[
        Path | None, typer.Option("--export", metavar="JOB.zip", help="For a machine without a network: write the job.")
    ] = None,
    import_: Annotated[
        Path | None, typer.Option("--import", metavar="RESULT.zip", help="Read what such a job wrote there.")
    ] = None,
    data_on_device: Annotated[
        str | None, typer.Option(metavar="PATH", help="Score PATH.npy and PATH.csv, which lie on the device and stay.")
    ] = None,
    cache: Annotated[
        bool | None,
        typer.Option(
            "--cache/--no-cache",
            help="Keep engines there for the next job (the default), or nothing.",
        ),
    ] = None,
    scenario: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="steady (always), sporadic, cold, soak or sweep; may be repeated."),
    ] = None,
    batch_size: Annotated[
        list[str] | None, typer.Option(metavar="N", help="Sweep over these batch sizes, e.g. 1,4,8; may be repeated.")
    ] = None,
    threads: Annotated[
        list[str] | None,
        typer.Option(metavar="N", help="Sweep over these thread counts, e.g. 1,2; may be repeated."),
    ] = None,
    power_mode: Annotated[
        str | None, typer.Option(metavar="MODE", help="Measure in this power mode, then put back the old one.")
    ] = None,
    lock_clocks: Annotated[
        bool, typer.Option("--lock-clocks", help="Measure with clocks at their highest, then put them back.")
    ] = False,
    estimate: Annotated[
        list[str] | None,
        typer.Option(metavar="MACHINE", help="Also estimate for a machine that is not here, e.g. jetson-orin-nano."),
    ] = None,
    name: Run = None,
    settings: Set = None,
    json: Json = False,
) -> None:
    """Measure the latency of all engines in interleaved blocks, here or on another machine."""
    from medge import commands, profile_commands, profile_options

    profile_options.refuse_unclear(device, export=export, import_=import_)
    changes = profile_options.settings_of(
        devices=device,
        data_on_device=data_on_device,
        cache=cache,
        scenarios=scenario,
        power_mode=power_mode,
        lock_clocks=lock_clocks,
        estimate=estimate,
        batch_sizes=batch_size,
        threads=threads,
    )
    folder, recipe = commands.start(None, name, settings or [], options=changes)
    _, kept = commands.start(None, name, settings or [], options=profile_options.lasting(changes))
    if import_ is None:
        profile_options.tell_of_power(recipe.profile, kept.profile)
    if export is not None:
        finish(profile_commands.export_job(folder, recipe, export), json)
    elif import_ is not None:
        finish(profile_commands.import_result(folder, name, import_, settings or []), json)
    elif profile_options.is_fleet(device):
        finish(profile_commands.measure_fleet(folder, recipe, device or []), json)
    else:
        finish(commands.run_stages(folder, recipe, ("profile",), kept=kept), json)
