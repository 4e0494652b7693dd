"""`python -m vidra_trio` is `vidra-trio`."""

from vidra_trio.cli import main

if __name__ == "__main__":
    main()
