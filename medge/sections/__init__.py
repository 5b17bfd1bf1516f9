"""The sections of a recipe: what each stage is told. Unknown keys are mistakes; values do not change after reading."""

from __future__ import annotations

from medge.sections.base import Name, Section
from medge.sections.compress import (
    Calibration,
    CompileSection,
    CompressSection,
    Rollback,
    SearchSection,
    Step,
    Variant,
    step_from_shorthand,
)
from medge.sections.data import Columns, DataSection, External, Phantom, Split
from medge.sections.finetune import AbsoluteLimits, Augment, FinetuneSection
from medge.sections.profile import Cold, ProfileSection, Soak, Sporadic, Sweep
from medge.sections.ship import (
    CorruptionSection,
    OodSection,
    PackageSection,
    SelectLimits,
    SelectSection,
    StressSection,
)
from medge.sections.validate import Margins, ValidateSection

__all__ = [
    "AbsoluteLimits",
    "Augment",
    "Calibration",
    "Cold",
    "Columns",
    "CompileSection",
    "CompressSection",
    "CorruptionSection",
    "DataSection",
    "External",
    "FinetuneSection",
    "Margins",
    "Name",
    "OodSection",
    "PackageSection",
    "Phantom",
    "ProfileSection",
    "Rollback",
    "SearchSection",
    "Section",
    "SelectLimits",
    "SelectSection",
    "Soak",
    "Split",
    "Sporadic",
    "Step",
    "StressSection",
    "Sweep",
    "ValidateSection",
    "Variant",
    "step_from_shorthand",
]
