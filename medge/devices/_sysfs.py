"""Many small files of /sys in one command. Light ring."""

from __future__ import annotations

from typing import Dict, Sequence

from medge.errors import MissingError, ToolError
from medge.protocols import Run

__all__ = ["read_matching"]

# One line a file: its path, a tab, its text. What cannot be read is left out, and is no error.
_SCRIPT = (
    'for f in {patterns}; do if [ -r "$f" ]; then t=$(tr "\\n\\t\\0" "   " < "$f" 2>/dev/null) && '
    'printf "%s\\t%s\\n" "$f" "$t"; fi; done; true'
)


def read_matching(run: Run, patterns: Sequence[str]) -> Dict[str, str]:
    """The texts, stripped, of all files that match shell patterns (of this code's own: they are not quoted); none of a
    machine that does not answer."""
    found: Dict[str, str] = {}
    try:
        lines = run(["sh", "-c", _SCRIPT.format(patterns=" ".join(patterns))]).splitlines()
    except (MissingError, ToolError):
        return found
    for line in lines:
        path, tab, text = line.partition("\t")
        if tab:
            found[path] = text.strip()
    return found
