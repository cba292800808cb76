"""The command line `twin`."""

from streams.cli import app


def main() -> None:
    """Run a command."""
    app()


if __name__ == "__main__":
    main()
