"""`python -m pedigree` is the command `pedigree`."""

from pedigree.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
