"""`python -m smilax`, where the `smilax` command is not on the PATH."""

from smilax.cli import main

if __name__ == "__main__":
    main()
