"""Who said what is wrong: a mistake in a recipe's value is blamed on the option or the --set that gave the value."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["blamed", "heading"]

# The key that an option's setting starts with, and the option as it is typed. An option whose value typer checks itself
# needs no entry.
_OPTIONS = {
    "compress.search.minutes": "--minutes",
    "compress.search.trials": "--trials",
    "compress.variants": "--prune",  # --distill and --int8 take no value that could be wrong
    "finetune.model": "--model",
    "finetune.weights": "--weights",
    "package.device": "--device",
    "profile.data_on_device": "--data-on-device",
    "profile.device": "--device",
    "profile.estimate": "--estimate",
    "profile.power_mode": "--power-mode",
    "profile.scenarios": "--scenario",
    "profile.sweep.batch_sizes": "--batch-size",
    "profile.sweep.threads": "--threads",
    "select.engine": "--engine",
    "select.prefer": "--prefer",
}


def blamed(problem: str, options: Sequence[str], settings: Sequence[str]) -> tuple[str, bool]:
    """A problem, `KEY: what is wrong`, with what was typed in place of the key, and whether that was found.

    options: the settings (`KEY=VALUE`) that options stand for; settings: those of --set, which count after them.
    """
    where, _, what = problem.partition(": ")
    for setting in reversed(settings):
        if _gave(setting, where):
            inner = "" if _key(setting) == where else f" ({where})"
            return f"--set {setting}{inner}: {what}", True
    for setting in reversed(options):
        if _gave(setting, where) and _key(setting) in _OPTIONS:
            return f"{_OPTIONS[_key(setting)]}: {what}", True
    return problem, False


def heading(origin: str, count: int, typed: int) -> tuple[str, str]:
    """What holds the mistakes, `typed` of them from the command line, and how to mend them."""
    number = "1 mistake" if count == 1 else f"{count} mistakes"
    every = "docs/recipes.md lists every key."
    if typed == 0:
        return f"{origin} has {number}", f"Mend {'it' if count == 1 else 'them all'}; {every}"
    fix = f"Change the command: --help lists its options; {every}"
    if typed == count:
        return f"The command line has {number}", fix
    return f"{origin} and the command line have {number}", f"Mend them all. {fix}"


def _key(setting: str) -> str:
    return setting.partition("=")[0]


def _gave(setting: str, where: str) -> bool:
    return where == _key(setting) or where.startswith(_key(setting) + ".")
