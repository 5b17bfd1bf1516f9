"""What the options of `medge profile` mean: for the recipe, for each other, and for the machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medge import console
from medge.errors import RecipeError
from medge.sections import ProfileSection

__all__ = ["ALL", "is_fleet", "lasting", "refuse_unclear", "settings_of", "tell_of_power"]

ALL = "all:"  # before a kind: every device of it
_ONCE = ("profile.power_mode=", "profile.lock_clocks=")


def settings_of(
    *,
    devices: Sequence[str] | None = None,
    data_on_device: str | None = None,
    cache: bool | None = None,
    scenarios: Sequence[str] | None = None,
    power_mode: str | None = None,
    lock_clocks: bool = False,
    estimate: Sequence[str] | None = None,
    batch_sizes: Sequence[str] | None = None,
    threads: Sequence[str] | None = None,
) -> list[str]:
    """The settings that the options stand for; None is what was not said. Steady is measured whether it is named or
    not, and a sweep where batch sizes or threads are. Raises RecipeError for numbers that are none."""
    found = [] if cache is None else [f"profile.keep_on_device={'engines' if cache else 'nothing'}"]
    if devices and not is_fleet(devices):
        found += [f"profile.device={devices[0]}", "profile.result=null"]
    if data_on_device is not None:
        found.append(f"profile.data_on_device={data_on_device}")
    swept = ["sweep"] if batch_sizes or threads else []
    if scenarios or swept:
        names = ["steady", *(name for name in scenarios or () if name not in ("steady", *swept)), *swept]
        found.append(f"profile.scenarios=[{', '.join(names)}]")
    if batch_sizes:
        found.append(f"profile.sweep.batch_sizes={_numbers('--batch-size', batch_sizes)}")
    if threads:
        found.append(f"profile.sweep.threads={_numbers('--threads', threads)}")
    if power_mode is not None:
        found.append(f"profile.power_mode='{power_mode}'")
    if lock_clocks:
        found.append("profile.lock_clocks=true")
    if estimate:
        found.append(f"profile.estimate=[{', '.join(estimate)}]")
    return found


def refuse_unclear(devices: Sequence[str] | None, *, export: Path | None, import_: Path | None) -> None:
    """Raises RecipeError for options that contradict each other."""
    if export is not None and import_ is not None:
        raise RecipeError("--export writes a job, --import reads a result.", fix="One after the other.")
    if import_ is not None and devices:
        raise RecipeError("--import knows the device: the result is its own.", fix="Leave --device out.")
    if export is not None and is_fleet(devices):
        raise RecipeError("A job is exported for one device.", fix="Once for each: --device NAME --export NAME.zip")


def is_fleet(devices: Sequence[str] | None) -> bool:
    """Whether more than one device is meant."""
    return bool(devices) and (len(devices or ()) > 1 or any(word.startswith(ALL) for word in devices or ()))


def _numbers(option: str, values: Sequence[str]) -> list[int]:
    """[1, 4] of `1,4` or of `1` and `4`. Raises RecipeError for what is not a whole number."""
    words = [word.strip() for value in values for word in value.split(",")]
    for word in words:
        if not word.isdecimal():
            raise RecipeError(f"{option} {word!r} is not a whole number.", fix=f"One or more: {option} 1 {option} 4")
    return [int(word) for word in words]


def lasting(changes: Sequence[str]) -> list[str]:
    """Of the settings that options stand for, those that the run remembers: what changes a machine is for the command
    that says it."""
    return [change for change in changes if not change.startswith(_ONCE)]


def tell_of_power(asked: ProfileSection, kept: ProfileSection | None = None) -> None:
    """One line on stderr where the recipe, `kept`, and not an option of this command changes the machine."""
    kept = asked if kept is None else kept
    words, undo = [], []
    if kept.power_mode is not None and kept.power_mode == asked.power_mode:
        words.append(f"power mode {kept.power_mode}")
        undo.append("--set profile.power_mode=null")
    if kept.lock_clocks:
        words.append("clocks locked")
        undo.append("--set profile.lock_clocks=false")
    if words:
        text = f"recipe: {', '.join(words)} while it is measured; to switch this off: {' '.join(undo)}"
        console.stderr.print(text, markup=False, soft_wrap=True)
