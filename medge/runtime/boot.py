"""`__main__.py` of medge-runtime.pyz: checks the archive that it is in before anything else of it is imported.

The rest of the bundle is checked by medge.runtime.bundle, and the archive once more, so that a change in either of
the two checks is found by the other. Standard library only; must not import medge before `_verify` has returned.
"""

import os
import sys


def _verify(archive: str) -> None:
    """Raises ValueError or OSError unless manifest.sha256 seals the manifest and the manifest lists this archive."""
    import hashlib
    import json

    folder, name = os.path.split(archive)
    contents = []
    for path in (os.path.join(folder, "manifest.json"), os.path.join(folder, "manifest.sha256"), archive):
        with open(path, "rb") as stream:
            contents.append(stream.read())
    manifest, seal, own = contents
    if seal != (hashlib.sha256(manifest).hexdigest() + "  manifest.json\n").encode():
        raise ValueError("manifest.json is not the one that manifest.sha256 seals")
    listed = [item["sha256"] for item in json.loads(manifest.decode())["files"] if item["path"] == name]
    if listed != [hashlib.sha256(own).hexdigest()]:
        raise ValueError(name + " is not the file that manifest.json lists")


def _start() -> int:
    if sys.version_info < (3, 8):  # noqa: UP036 - this file meets whatever Python the device has
        sys.stderr.write(f"error: medge-runtime needs Python 3.8 or newer, this is {sys.version.split()[0]}\n")
        return 3
    archive = os.path.dirname(os.path.realpath(__file__))
    try:
        _verify(archive)
    except (OSError, ValueError, KeyError, TypeError) as error:
        sys.stderr.write(f"error: refused: {error}\n  fix: Do not use it. Copy the bundle again.\n")
        return 2
    # What engines print on stdout would mix with the results: it goes to stderr.
    sys.stdout.flush()
    results = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        from medge.runtime.main import main
    except ImportError as error:
        sys.stderr.write(f"error: {error}\n  fix: Install what the bundle needs: see its README.md.\n")
        return 3
    return main(sys.argv[1:], folder=os.path.dirname(archive), results=results)


if __name__ == "__main__":
    sys.exit(_start())
