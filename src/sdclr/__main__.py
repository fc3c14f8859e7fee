"""`python -m sdclr`: the command line, as `torchrun -m sdclr` starts it too."""

from sdclr.cli import main

if __name__ == "__main__":
    main()
