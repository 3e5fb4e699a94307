"""`python -m kbit`: the same as `kbit`."""

from kbit.cli import main

if __name__ == "__main__":
    main()
