"""`python -m stackd` is the `stackd` command."""

from stackd.cli import main

if __name__ == "__main__":
    main()
