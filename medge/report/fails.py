"""Where the engine fails, for the person who decides: what was found, and plainly what was not looked at."""

from __future__ import annotations

from typing import Any

from medge.report.gather import Found
from medge.report.stress import left_out, worst_corruption
from medge.report.subgroups import worst_subgroup
from medge.report.words import count, interval, percent, share, signed

__all__ = ["where_it_fails"]


def where_it_fails(found: Found, name: str) -> list[dict[str, Any]]:
    """{name, text} of changed decisions, the worst subgroup, the worst corruption, images from elsewhere and images
    that are not of the kind; each is there, with `looked` false where nothing was looked at."""
    return [
        _changed(found, name),
        _subgroup(found, name),
        _corruption(found, name),
        _external(found, name),
        _refusal(found, name),
    ]


def _entry(name: str, text: str, *, looked: bool = True) -> dict[str, Any]:
    return {"name": name, "text": text, "looked": looked}


def _changed(found: Found, name: str) -> dict[str, Any]:
    trial = found.judged[name]["test"]
    flips, images = trial["flips"], sum(trial["images"].values())
    if flips.get("new_misses") is None:
        return _entry("changed decisions", f"{count(flips['count'], 'decision')} of {count(images, 'test image')}.")
    text = (
        f"{count(flips['new_misses'], 'new miss', 'new misses')} and {count(flips['new_alarms'], 'new alarm')} "
        f"that the float model does not make, of {count(images, 'test image')}"
    )
    (_, alarms), (misses, _) = trial["confusion"]["engine"]
    every = f"{count(misses, 'miss', 'misses')} and {count(alarms, 'alarm')}"
    return _entry("new misses", f"{text}; {every} in all.")


def _subgroup(found: Found, name: str) -> dict[str, Any]:
    worst = worst_subgroup(found, name)
    if worst is None:
        return _entry("worst subgroup", "Not looked at: the data name no subgroups.", looked=False)
    text = (
        f"{worst['column']} {worst['value']}: {share(worst['engine'])} [{share(worst['lower'])}, "
        f"{share(worst['upper'])}] (95 % Wilson interval) of {count(worst['images'], 'image')} decided rightly, "
        f"float model {share(worst['float'])}."
    )
    return _entry("worst subgroup", text)


def _corruption(found: Found, name: str) -> dict[str, Any]:
    row = worst_corruption(found)
    if row is None:
        why = _why_not(found, "no corrupted images were judged in this run")
        return _entry("worst corruption", f"Not looked at: {why}.", looked=False)
    of = "" if found.stress["engine"] == name else f" ({found.stress['engine']})"
    text = (
        f"{row['kind'].replace('_', ' ')}, severity {row['severity']}{of}: AUC {share(row['auc_engine'])}, "
        f"float model {share(row['auc_float'])}{_refused(row)}."
    )
    return _entry("worst corruption", f"{text}{_largest_loss(found)}")


def _why_not(found: Found, otherwise: str) -> str:
    """Why the stress stage left its parts, where it could not run the engine; else the usual reason."""
    left = left_out(found)
    return otherwise if left is None else str(left["why"])


def _refused(row: dict[str, Any]) -> str:
    rate = row.get("refused_engine")
    return "" if rate is None else f", {percent(rate)} refused as unlike"


def _largest_loss(found: Found) -> str:
    """The corruption under which the engine loses most against its reference; empty where it loses under none."""
    document = found.stress["corruptions"]
    rows = [row for row in document["rows"] if row["difference"] is not None]
    most = min(rows, key=lambda row: (row["difference"], row["kind"], row["severity"]), default=None)
    if most is None or most["difference"] >= 0:
        return ""
    return (
        f" Most lost: {most['kind'].replace('_', ' ')}, severity {most['severity']}, AUC {signed(most['difference'])} "
        f"against {found.stress['reference']}{_refused(most)}. On {count(document['images'], 'test image')} each."
    )


def _external(found: Found, name: str) -> dict[str, Any]:
    trial = found.judged[name].get("external")
    if trial is None:
        text = "Not looked at: the recipe names no external set, so nothing is known about images from elsewhere."
        return _entry("images from elsewhere", text, looked=False)
    metrics, inside = trial["metrics"]["engine"], found.judged[name]["test"]["metrics"]["engine"]
    text = (
        f"AUC {share(metrics['auc']['value'])} {interval(metrics['auc'])} on "
        f"{count(sum(trial['images'].values()), 'external image')}, inside {share(inside['auc']['value'])}."
    )
    return _entry("images from elsewhere", text)


def _refusal(found: Found, name: str) -> dict[str, Any]:
    document = found.stress.get("ood") or {"engines": {}}
    of = document["engines"].get(name)
    if of is None:
        why = _why_not(found, "this run tests no refusal of images that are not of the kind")
        return _entry("foreign images", f"Not looked at: {why}; it answers anything.", looked=False)
    refused = f"it refuses {percent(of['test']['rate'])} of test images wrongly"
    if not of["sets"]:
        return _entry("foreign images", f"No foreign set was tried; {refused}.", looked=False)
    worst, one = min(of["sets"].items(), key=lambda item: (item[1]["rate"], item[0]))
    text = f"{worst.replace('_', ' ')}: {percent(one['rate'])} of {count(one['images'], 'image')} refused; {refused}."
    return _entry("foreign images", text)
