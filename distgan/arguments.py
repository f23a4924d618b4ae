"""What the command lines of all programs have in common."""

import argparse
import shlex
from typing import Any, NoReturn

from distgan.errors import InputError

ON_SETTINGS = "What is no option here is a setting of distgan.train, such as --config my.yaml or --train.batch_size 256."


class Parser(argparse.ArgumentParser):
    """Its description keeps its lines, an option is written in full, and what is wrong is a sentence as all others.

    Parsing raises InputError; the parsers of its commands are of this class, too.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False} | options)

    def error(self, message: str) -> NoReturn:
        raise InputError(f"The command line cannot be read: {message}; see {self.prog} --help.")


def port(text: str) -> int:
    """The type of an option: a TCP port."""
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port, which are numbers from 1 to 65535")
    return int(text)


def number(text: str) -> int:
    """The type of an option that takes several whole numbers."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number; between several, put spaces: 64 512") from None


def command_line(text: str) -> str:
    """The type of an option: a program and its arguments, as a shell would read them."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no command ({str(error).lower()})") from None
    if not words:
        raise argparse.ArgumentTypeError(f"{text!r} is no command")
    return text
