"""`python -m ftframe`."""

from ftframe.cli import main

if __name__ == "__main__":
    main()
