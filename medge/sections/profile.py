"""profile: where and how latency is measured."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from medge import plugins
from medge.sections.base import Section

__all__ = ["Cold", "ProfileSection", "Soak", "Sporadic", "Sweep"]


class Sporadic(Section):
    """One image every `interval_seconds`, nothing in between; p90 needs 64 queries (MLPerf's rule)."""

    queries: Annotated[int, Field(ge=5)] = 20
    interval_seconds: Annotated[float, Field(ge=0)] = 2.0


class Cold(Section):
    """From the start of a process to its first answer, in so many fresh processes an engine."""

    starts: Annotated[int, Field(ge=3)] = 5


class Soak(Section):
    """One engine alone, back to back, for `seconds`: the fastest one, or all in turn. Power is read here."""

    seconds: Annotated[float, Field(gt=0)] = 120.0
    engines: Literal["fastest", "all"] = "fastest"


class Sweep(Section):
    """Every engine for each of `batch_sizes` images at once and each of `threads` (none: the section's own number),
    five calls in each of `blocks`. What an engine or a machine cannot take is a row that says so."""

    batch_sizes: tuple[Annotated[int, Field(ge=1, le=64)], ...] = (1, 4, 8)
    threads: tuple[Annotated[int, Field(ge=1)], ...] = ()
    blocks: Annotated[int, Field(ge=3)] = 15

    @field_validator("batch_sizes", "threads")
    @classmethod
    def _each_once(cls, value: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        if len(set(value)) != len(value) or (info.field_name == "batch_sizes" and not value):
            raise ValueError("name each number once, and one batch size at least")
        return value

    @model_validator(mode="after")
    def _fit_beside_each_other(self) -> Sweep:
        """All settings of one engine are loaded at once, each in a process."""
        if len(self.batch_sizes) * max(1, len(self.threads)) > 16:
            raise ValueError("16 pairs of batch size and threads at most: an engine has a process for each at once")
        return self


class ProfileSection(Section):
    """Interleaved blocks of five inferences over all candidates at once (`steady`), and what else `scenarios` names.

    power_mode, lock_clocks: set on the machine while it is measured and put back after; nothing is changed unless
    asked for. estimate: kinds of machines that do not answer, e.g. `[jetson-orin-nano]`; never ranked.

    device: `local`, a name of the device book, or the kind of the only one there (medge devices add). score: run a
    labelled split there too; `both`, validation and test, lets select choose engines that were built there;
    data_on_device: PATH.npy and PATH.csv of a labelled set that lies there and stays there.
    limit_minutes: a job on a device that takes longer is ended. keep_on_device: `engines` stay there, so that they are
    sent once, or `nothing` does; images never stay. blob_cache: OpenVINO's engines
    start there from compiled blobs, kept by this host between jobs; a bundle has none, so its cold start is longer.
    result: set by `medge profile --import`.
    """

    device: str = "local"
    score: Literal["none", "validation", "test", "both"] = "none"
    data_on_device: str | None = None
    limit_minutes: Annotated[float, Field(gt=0)] = 60.0
    keep_on_device: Literal["engines", "nothing"] = "engines"
    blob_cache: bool = False
    result: str | None = None
    threads: Annotated[int, Field(ge=1)] | None = None
    blocks: Annotated[int, Field(ge=10)] = 100
    seconds: Annotated[float, Field(gt=0)] = 15.0
    warmup_seconds: Annotated[float, Field(ge=0)] = 1.0
    scenarios: tuple[Literal["steady", "sporadic", "cold", "soak", "sweep"], ...] = ("steady",)
    sporadic: Sporadic = Sporadic()
    cold: Cold = Cold()
    soak: Soak = Soak()
    sweep: Sweep = Sweep()
    power_mode: str | None = None
    lock_clocks: bool = False
    estimate: tuple[str, ...] = ()

    @field_validator("power_mode", mode="before")
    @classmethod
    def _mode_is_text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("scenarios")
    @classmethod
    def _steady_is_measured(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if "steady" not in value or len(set(value)) != len(value):
            raise ValueError("name each scenario once, and steady always: an engine is chosen by it")
        return value

    @field_validator("estimate")
    @classmethod
    def _estimated_kinds_are_known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        from medge.estimate import MACHINES

        if unknown := [name for name in value if name not in MACHINES]:
            raise ValueError(f"no machine '{unknown[0]}'. {plugins.nearest(unknown[0], list(MACHINES))}")
        return value
