"""`__main__.py` of job.pyz. With a folder: a job that came over a link. Without: one that came on a stick, whose files
lie beside the archive; it writes result.zip there. Must not import medge before the version is known."""

import sys


def _start() -> int:
    if sys.version_info < (3, 8):  # noqa: UP036 - this file meets whatever Python the device has
        sys.stderr.write("error: medge needs Python 3.8 or newer, this is %s\n" % sys.version.split()[0])  # noqa: UP031
        return 3
    try:
        from medge.job import steps  # noqa: F401 - numpy is missing now or never
        from medge.job.run import main
    except ImportError as error:
        if (error.name or "").startswith("medge"):
            raise
        sys.stderr.write(f"error: {error}\n  fix: {sys.executable} needs numpy and Pillow: pip install numpy Pillow\n")
        return 3
    return main(sys.argv[1:], archive=__file__)


if __name__ == "__main__":
    try:
        sys.exit(_start())
    except KeyboardInterrupt:
        sys.stderr.write("\nstopped: nothing was written, and nothing is left of it here\n")
        sys.exit(130)
