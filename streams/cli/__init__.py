"""The commands of `twin`, one module a kind of user. What a command needs is imported when it runs: --help is quick."""

# isort: off
# The order in which --help shows them.
from streams.cli import service
from streams.cli import rebuilding
from streams.cli import operating
from streams.cli import sending
from streams.cli import simulating
from streams.cli import asking
from streams.cli import checking
from streams.cli import library
from streams.cli.application import app

__all__ = [
    "app",
    "asking",
    "checking",
    "library",
    "operating",
    "rebuilding",
    "sending",
    "service",
    "simulating",
]
