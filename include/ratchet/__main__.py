"""``python -m ratchet``: the command line, where the program ``ratchet`` is not installed."""

from ratchet.cli import main

if __name__ == "__main__":
    main()
