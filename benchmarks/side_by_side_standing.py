"""Where medge's engines stand among those of other tools: flips at equal latency, and latency at equal flips."""

from __future__ import annotations

from typing import Any

from medge.statistics.mcnemar import exact_p

__all__ = ["ALPHA", "standing"]

ALPHA = 0.05


def standing(table: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Of every int8 engine of medge's (`own`), against every int8 engine that is not and has a latency.

    at_equal_latency: of the others that are not shown to be slower (their ratio's lower bound is at most the engine's
    upper one), the one with the fewest flips. at_equal_flips: of the others that flip no more, the fastest. Each is
    {"engine", "ahead": "yes", "no" or "level", ...}; without an other of that kind it is {"engine": None, "ahead":
    "yes"}. p: exact two-sided McNemar, of images that only one of the two flips; above 0.05 they are level.
    """
    rows = {name: of for name, of in table.items() if of["quantised"] and of["latency_ratio"] is not None}
    others = {name: of for name, of in rows.items() if not of["own"]}
    found = {}
    for name, of in rows.items():
        if of["own"]:
            by_flips, by_latency = _by_flips(of, others), _by_latency(of, others)
            sentence = f"{_flips_words(of, by_flips)}; {_latency_words(by_latency)}"
            found[name] = {"at_equal_latency": by_flips, "at_equal_flips": by_latency, "sentence": sentence}
    return found


def _by_flips(own: dict[str, Any], others: dict[str, dict[str, Any]]) -> dict[str, Any]:
    near = [n for n, of in others.items() if of["latency_ratio"]["lower"] <= own["latency_ratio"]["upper"]]
    if not near:
        return {"engine": None, "ahead": "yes"}
    best = min(near, key=lambda n: (others[n]["flips"]["count"], others[n]["latency_ratio"]["ratio"], n))
    mine, theirs = set(own["flipped"]), set(others[best]["flipped"])
    p = exact_p(len(theirs - mine), len(mine - theirs))
    ahead = "level" if p > ALPHA else "yes" if len(mine) < len(theirs) else "no"
    return {"engine": best, "ahead": ahead, "flips": len(theirs), "p": p}


def _by_latency(own: dict[str, Any], others: dict[str, dict[str, Any]]) -> dict[str, Any]:
    near = [n for n, of in others.items() if of["flips"]["count"] <= own["flips"]["count"]]
    if not near:
        return {"engine": None, "ahead": "yes"}
    best = min(near, key=lambda n: (others[n]["latency_ratio"]["ratio"], n))
    mine, theirs = own["latency_ratio"], others[best]["latency_ratio"]
    ahead = "yes" if mine["upper"] < theirs["lower"] else "no" if theirs["upper"] < mine["lower"] else "level"
    return {"engine": best, "ahead": ahead, "latency_ratio": theirs}


def _flips_words(own: dict[str, Any], found: dict[str, Any]) -> str:
    if found["engine"] is None:
        return "no other engine is as fast"
    return (
        f"flips at equal latency: ahead {found['ahead']}, {len(own['flipped'])} against {found['flips']} of "
        f"{found['engine']} (p {found['p']:.2g})"
    )


def _latency_words(found: dict[str, Any]) -> str:
    if found["engine"] is None:
        return "no other engine flips so few"
    return f"latency at equal flips: ahead {found['ahead']}, against {found['engine']}"
