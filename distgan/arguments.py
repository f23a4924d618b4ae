"""What the command lines of all programs have in common."""

import argparse
from typing import Any, NoReturn

from distgan.errors import InputError


class Parser(argparse.ArgumentParser):
    """Its description keeps its lines, an option is written in full, and what is wrong is a sentence as all others.

    Parsing raises InputError; the parsers of its commands are of this class, too.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False} | options)

    def error(self, message: str) -> NoReturn:
        raise InputError(f"The command line cannot be read: {message}; see {self.prog} --help.")
