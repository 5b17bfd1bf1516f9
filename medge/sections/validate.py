"""validate: the protocol of the trial."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from medge.errors import RecipeError
from medge.sections.base import Fraction, Section

__all__ = ["Margins", "ValidateSection"]


class Margins(Section):
    """The gate: engine minus float must stay above the first five, at most the last two."""

    auc: Annotated[float, Field(lt=0)] = -0.01
    sensitivity: Annotated[float, Field(lt=0)] = -0.02
    specificity: Annotated[float, Field(lt=0)] = -0.03
    f1: Annotated[float, Field(lt=0)] = -0.02
    accuracy: Annotated[float, Field(lt=0)] = -0.02
    flips: Fraction = 0.02
    ece: Fraction = 0.02


class ValidateSection(Section):
    """The trial's protocol, fixed before the test images are judged; its hash goes into the bundle."""

    margins: Margins = Margins()
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    threshold: str = "youden"
    transfer: Literal["carried", "refitted"] = "carried"
    bootstrap: Annotated[int, Field(ge=200)] = 2000

    @field_validator("threshold", mode="before")
    @classmethod
    def _rule_is_known(cls, value: Any) -> str:
        from medge.statistics import thresholds  # numpy and scipy: not for every command line

        try:
            thresholds.parse(str(value))
        except RecipeError as error:
            raise ValueError(f"{error.message} {error.fix}") from None
        return str(value)
