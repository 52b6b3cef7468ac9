"""``python -P -m wherry``: the same as the ``wherry`` command."""

from wherry.cli import main

if __name__ == "__main__":
    main()
