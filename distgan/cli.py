"""YAML files and flags -> TrainConfig. `--config a.yaml --config b.yaml --section.key value`; later wins, flags win."""

import argparse
import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError, create_model
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, CliSettingsSource, SettingsError

from distgan.arguments import Parser
from distgan.config import DEFAULT_MODEL, TrainConfig, config_class, flatten
from distgan.errors import InputError
from distgan.models import MODELS

PROGRAM = "distgan.train"


@dataclass(frozen=True)
class Command:
    """What the user asked for."""

    config: TrainConfig
    dry_run: bool


def parse_command(arguments: Sequence[str]) -> Command:
    """Parse the arguments of `distgan.train`.

    Raises:
        InputError: every unknown key, wrong type and value out of range at once.
        SystemExit: 0 after `--help`.
    """
    model_option = _program_options()
    model_option.add_argument("--model.name", dest="model_name")  # decides which settings there are
    first, _ = model_option.parse_known_args(list(arguments))
    values: dict = {}
    for path in first.config:
        values = _merged(values, read_yaml(path))
    cls = _class_for(first.model_name or _model_name_in(values))
    known = flatten(cls.model_validate({}).model_dump())
    flags, unknown = _parse_flags(cls, arguments, known)
    values = _merged(values, flags)
    problems = _unknown_flags(unknown, known)
    if first.config:
        values = _merged({"run": {"dir": f"runs/{first.config[-1].stem}"}}, values)
    try:
        config = validate(values)
    except InputError as error:
        raise InputError(problems + error.problems) from None
    if problems:
        raise InputError(problems)
    return Command(config, first.dry_run)


def validate(values: dict) -> TrainConfig:
    """Nested settings -> TrainConfig.

    Raises:
        InputError: a sentence for each setting that is unknown or has a value it cannot have.
    """
    cls = _class_for(_model_name_in(values))
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        known = flatten(cls.model_validate({}).model_dump())
        raise InputError([_sentence(details, known) for details in error.errors()]) from None


def read_yaml(path: Path) -> dict:
    """The mapping in a YAML file.

    Raises:
        InputError: it cannot be read, is not YAML, or is not a mapping.
    """
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeyLoader)  # noqa: S506 - a SafeLoader
    except OSError as error:
        raise InputError(f"--config {path} cannot be read ({error.strerror}); give the path of a YAML file.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"--config {path} is not valid YAML ({' '.join(str(error).split())}); mend the file.") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InputError(f"--config {path} holds a {type(values).__name__}; give sections such as 'train:' with their settings below.")
    return values


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML says a key stands once; PyYAML lets the last one win and drops the others without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                continue  # no key of ours; PyYAML refuses it below
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key_node.value!r} stands twice", key_node.start_mark)
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


def to_yaml(config: TrainConfig) -> str:
    """The resolved configuration, readable again by `read_yaml` and `validate`."""
    return yaml.safe_dump(config.model_dump(), sort_keys=False)


def _program_options() -> argparse.ArgumentParser:
    parser = Parser(prog=PROGRAM, add_help=False)
    parser.add_argument("--config", action="append", default=[], type=Path, metavar="FILE", help="YAML file of settings; later ones win")
    parser.add_argument("--dry-run", action="store_true", help="print the resolved settings and what they amount to, then exit")
    return parser


def _parse_flags(cls: type[TrainConfig], arguments: Sequence[str], known: dict) -> tuple[dict, list[str]]:
    """The nested settings given as flags, and the arguments that are none."""
    unknown: list[str] = []

    def parse_known(parser: argparse.ArgumentParser, args: Sequence[str] | None = None, namespace=None) -> argparse.Namespace:
        known, rest = parser.parse_known_args(args, namespace)
        unknown.extend(rest)
        return known

    parser = Parser(
        prog=PROGRAM,
        usage="torchrun ... -m distgan.train [--config FILE ...] [--dry-run] [--section.key VALUE ...]",
        description=cls.__doc__,
        parents=[_program_options()],
    )
    settings_class: Any = create_model("Flags", __base__=(cls, BaseSettings))
    try:
        source = CliSettingsSource(
            settings_class,
            root_parser=parser,
            parse_args_method=parse_known,
            cli_parse_args=list(arguments),
            cli_parse_none_str="null",
            cli_avoid_json=True,
            cli_hide_none_type=True,
            cli_implicit_flags=True,
            cli_use_class_docs_for_groups=True,
        )
        return source(), unknown
    except SettingsError as error:  # which names the outermost section only
        keys = [argument.removeprefix("--").partition("=")[0] for argument in arguments if argument.startswith("--")]
        problem = next((f"--{key} is a section" for key in keys if key in _sections(known)), error)
        raise InputError(f"The command line cannot be read: {problem}; write --section.key value.") from None


def _merged(values: dict, more: dict) -> dict:
    """`values` with `more` laid over it, section by section."""
    merged = dict(values)
    for key, value in more.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def _model_name_in(values: dict) -> str:
    model = values.get("model")
    name = model.get("name", DEFAULT_MODEL) if isinstance(model, dict) else DEFAULT_MODEL
    return name if isinstance(name, str) else str(name)


def _class_for(model_name: str) -> type[TrainConfig]:
    if model_name not in MODELS:
        raise InputError(f"model.name is {model_name!r}, which is not a model; set model.name to one of {', '.join(sorted(MODELS))}.")
    return config_class(model_name)


def _sections(known: dict) -> list[str]:
    """'data' and 'data.augment' for {'data.augment.flip': ...}."""
    return sorted({field[:dot] for field in known for dot, letter in enumerate(field) if letter == "."})


def _not_a_setting(field: str, known: dict) -> str:
    owners = [name for name, model in MODELS.items() if field.removeprefix("model.") in model.Options.model_fields]
    if field.startswith("model.") and owners:
        return f"{field} is a setting of model.name {' or '.join(owners)}, but model.name is {known['model.name']}; take it out."
    names = [*known, *_sections(known)]
    same_leaf = [name for name in names if name.rpartition(".")[2] == field.rpartition(".")[2]]
    nearest = difflib.get_close_matches(field, same_leaf or names, n=1, cutoff=0.0 if same_leaf else 0.6)
    mend = f"did you mean {nearest[0]}?" if nearest else "see --help for all settings."
    return f"{field} is not a setting; {mend}"


def _unknown_flags(arguments: list[str], known: dict) -> list[str]:
    problems = []
    value_of_unknown_key = False
    for argument in arguments:
        if argument.startswith("--"):
            key, equals, _ = argument.removeprefix("--").partition("=")
            problems.append(_not_a_setting(key, known))
            value_of_unknown_key = not equals
        elif value_of_unknown_key:
            value_of_unknown_key = False
        else:
            problems.append(
                f"{argument!r} belongs to no setting; write --section.key value (switches take none: --run.overwrite; "
                "--config once per file)."
            )
    return problems


def _sentence(details: ErrorDetails, known: dict) -> str:
    field = ".".join(str(part) for part in details["loc"])
    value = details["input"]
    if any("." in str(part) for part in details["loc"]) and (field in known or field in _sections(known)):
        *outer, innermost = field.split(".")
        nested = ": {".join([*outer, f"{innermost}: {value!r}"]) + "}" * len(outer)
        return f"{field} stands as one key in a file; write its levels apart, {nested}."
    if details["type"] == "extra_forbidden":
        return _not_a_setting(field, known)
    if details["type"] in ("model_type", "dict_type", "model_attributes_type"):
        return f"{field} is {value!r}, but it is a section; give its settings as {field}.key."
    message = details["msg"]
    return f"{field} is {value!r}; {message[0].lower()}{message[1:]}."
