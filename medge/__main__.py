"""`python -m medge`."""

from medge.cli import main

if __name__ == "__main__":
    main()
