"""What can go wrong, said once: every error names what is wrong and how to mend it.

Only MedgeError is caught, in the CLI and in the runtime; anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

__all__ = [
    "DataError",
    "GateFailed",
    "ImageRefused",
    "IntegrityError",
    "MedgeError",
    "MissingError",
    "RecipeError",
    "ToolError",
]


class MedgeError(Exception):
    """A mistake or a lack outside the code. `fix` says what the reader can do about it."""

    exit_code = 2

    def __init__(self, message: str, *, fix: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.message}\n  fix: {self.fix}" if self.fix else self.message


class RecipeError(MedgeError):
    """A recipe or a command line that cannot be followed (exit 2)."""


class DataError(MedgeError):
    """Images or tables that cannot be used as they are (exit 2)."""


class ImageRefused(DataError):
    """One image that cannot be judged as it is (exit 2)."""


class IntegrityError(MedgeError):
    """A file that is not the one that was recorded (exit 2)."""


class MissingError(MedgeError):
    """A package, a device or a driver that is not here (exit 3)."""

    exit_code = 3


class ToolError(MedgeError):
    """A tool (exporter, compiler, engine) that refused the model (exit 4)."""

    exit_code = 4


class GateFailed(MedgeError):
    """A gate that did not pass; everything up to it, the report too, is written (exit 5)."""

    exit_code = 5
