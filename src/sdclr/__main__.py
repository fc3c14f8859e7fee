"""The command line for `python -m sdclr` and `torchrun -m sdclr`."""

from sdclr.cli import main

if __name__ == "__main__":
    main()
