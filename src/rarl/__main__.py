"""`python -m rarl` is the command `rarl`."""

from rarl.cli import main

if __name__ == "__main__":
    main()
