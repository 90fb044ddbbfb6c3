"""`python -m rayqueue` is the `rayqueue` command."""

from rayqueue.cli.main import main

if __name__ == "__main__":
    main()
