"""The README of a bundle, for the person at the device: bundle_readme.md with the bundle's own figures."""

from __future__ import annotations

from importlib import resources
from string import Template
from typing import Any

from medge.receipts import Receipt
from medge.records import NOTICE

__all__ = ["template", "text"]

_SYNTHETIC = """
**Made from synthetic images: drawn, not acquired. It knows nothing about patients; use it to try the software only.**
"""


def text(document: dict[str, Any], receipt: Receipt | None) -> str:
    """For the person at the device."""
    point, engine = document["operating_point"], document["engines"][0]
    two = point["threshold"] is not None
    synthetic = document["provenance"]["data"]["synthetic"]
    counts = document["provenance"]["data"]["counts"].get("test", {})
    return Template(template()).substitute(
        name=document["name"],
        labels=", ".join(document["labels"]),
        notice=NOTICE.capitalize(),
        synthetic=_SYNTHETIC if synthetic else "",
        requires=engine["requires"],
        vectors=len(document["golden"]),
        cpu=document["validated_on"]["cpu"],
        validated_by=document["validated_on"]["by"],
        temperature=f"{point['temperature']:.4g}",
        decision=(
            f"`{point['positive']}` where its probability reaches the threshold, else the other class."
            if two
            else "the most probable class."
        ),
        threshold=f"{point['threshold']:.4g} (rule: {point['rule']})." if two else "none, with more than two classes.",
        refusal=_refusal_text(document["ood"]),
        test_images=sum(counts.values()),
        verdict=document["metrics"]["verdict"],
        metrics=_metric_table(document["metrics"]),
        decided_at=_decided_at(point, receipt),
        sentence=document["metrics"]["chosen_because"] or "chosen by hand.",
        data=f"{document['provenance']['data']['name']}{', synthetic' if synthetic else ''}",
        engine=f"{engine['variant']}/{engine['backend']}-{engine['precision']}",
        megabytes=f"{sum(file['bytes'] for file in engine['files']) / 1e6:.1f}",
    )


def template() -> str:
    return resources.files("medge").joinpath("bundle_readme.md").read_text(encoding="utf-8")


def _refusal_text(ood: dict[str, Any] | None) -> str:
    """What the bundle's README says of images unlike the validated ones."""
    if ood is None:
        return "It judges any picture, also one of something else: look at what you give it."
    test = ood["test"]
    sets = ", ".join(f"{one['refused']} of {one['images']} {name}" for name, one in ood["sets"].items())
    return (
        f"An image unlike the training images is refused too, by the engine's own features (`ood_score` above "
        f"{ood['threshold']:.4g}). Refused when it was made: {sets}; and wrongly {test['refused']} of {test['images']} "
        "test images. What is like enough to pass can still be judged wrongly."
    )


def _decided_at(point: dict[str, Any], receipt: Receipt | None) -> str:
    """At which threshold the table counts decisions, and at which the receipt does."""
    by = "for the most probable class"
    if point["threshold"] is not None:
        by = f"at the operating threshold {point['threshold']:.4g} (probability after temperature scaling)"
    text = f"Accuracy, sensitivity and the other figures that count decisions are taken {by}; AUC needs no threshold."
    metrics = None if receipt is None else receipt.metrics
    if receipt is None or not metrics or point["threshold"] is None:
        return text
    return (
        f"{text} The receipt's accuracy on {receipt.device}, {metrics['accuracy']:.3f} of {metrics['images']} "
        f"{metrics['set']} images, counts the most probable class instead (threshold 0.5)."
    )


def _metric_table(metrics: dict[str, Any]) -> str:
    """Markdown: value and 95 % interval, of the float model and of the engine."""
    lines = ["| | float model | this engine |", "|---|---|---|"]
    for name, of_engine in metrics["engine"].items():
        of_float = metrics["float"].get(name)
        if isinstance(of_engine, dict) and isinstance(of_float, dict) and "value" in of_engine:
            lines.append(f"| {name.replace('_', ' ')} | {_interval(of_float)} | {_interval(of_engine)} |")
    return "\n".join(lines)


def _interval(metric: dict[str, Any]) -> str:
    if metric.get("value") is None:
        return "not defined"
    bounds = [metric.get("lower"), metric.get("upper")]
    interval = "" if None in bounds else f" [{bounds[0]:.3f}, {bounds[1]:.3f}]"
    return f"{metric['value']:.3f}{interval}"
