"""From a config to dataclasses, and the config a workdir was made with."""

import dataclasses
import difflib
import json
import math
import pathlib
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from ml_collections import ConfigDict

from sims_jax.atomic import write_json
from sims_jax.errors import InputError

NUM_DIFFERENCES = 5  # that are told
CONFIG_FILE = "config.json"
OF_NOW = ("stages", "distributed")  # keys that a workdir does not keep
T = TypeVar("T")


def make(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """`cls(**values)` for a frozen dataclass, with lists as tuples.

    Raises:
      InputError: a key is unknown or missing, a value is of another type, or the dataclass refuses
        it; `where` names the part of the config.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}
    required = {name for name, field in fields.items() if field.default is dataclasses.MISSING}
    given = set(values.keys())
    unknown, missing = sorted(given - set(fields)), sorted(required - given)
    if unknown:
        raise unknown_key(where, unknown[0], fields)
    if missing:
        raise InputError(
            f"{where}: found no {missing[0]!r}, expected the keys {', '.join(fields)}; add it (a "
            "workdir's config.json without it is of an earlier version: train in another workdir)"
        )
    frozen = {name: _freeze(values[name]) for name in given}
    for name, value in frozen.items():
        if not _fits(value, kind := fields[name].type):
            told = kind.__name__ if isinstance(kind, type) else kind
            raise InputError(f"{where}.{name}: found {value!r}, expected {told}")
    try:
        return cls(**frozen)
    except InputError as error:
        raise InputError(f"{where}.{error}") from error


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value is of a type that a config's dataclasses have."""
    parts = typing.get_args(kind)
    if isinstance(kind, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if typing.get_origin(kind) is tuple:
        # Of how many is the dataclass's to say: all are of one type here.
        return isinstance(value, tuple) and all(_fits(item, parts[0]) for item in value)
    if isinstance(value, bool):  # which is an int, too
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def check_numbers(part: Any, most: float = math.inf, **least: float) -> None:
    """Raises an InputError unless numbers of a dataclass are at least `least`, and at most `most`.

    For `__post_init__`: `make` puts the part of the config before the key.
    """
    for name, smallest in least.items():
        if not smallest <= (found := getattr(part, name)) <= most:
            expected = f"{smallest} to {most}" if most < math.inf else f"at least {smallest}"
            raise InputError(f"{name}: found {found}, expected {expected}")


def check_size(part: Any, name: str, least: int) -> None:
    """Raises an InputError unless a dataclass's size has two sides, each of at least `least`."""
    size = getattr(part, name)
    if not isinstance(size, tuple) or len(size) != 2 or min(size) < least:
        raise InputError(f"{name}: found {size}, expected (height, width) of at least {least}")


def check_as_many(part: Any, name: str, other: str) -> None:
    """Raises an InputError unless two tuples of a dataclass are of one length."""
    found, expected = len(getattr(part, name)), len(getattr(part, other))
    if found != expected:
        raise InputError(f"{name}: found {found}, expected {expected}, as many as {other}")


def unknown_key(where: str, name: str, known: Iterable[str]) -> InputError:
    """The error that `name` is no key of the part `where` of a config, with the nearest that is."""
    known = list(known)
    nearest = difflib.get_close_matches(name, known, n=1)
    first = ", ".join(key for key in known if "." not in key)
    advice = f"did you mean {where}.{nearest[0]}?" if nearest else f"expected one of {first}"
    return InputError(f"{where}.{name}: found an unknown key; {advice}")


def all_keys(config: ConfigDict) -> Iterator[str]:
    """The keys of a config and of its parts, as in `synthesis.train.steps`."""
    for name, value in config.items():
        yield name
        if isinstance(value, ConfigDict):
            yield from (f"{name}.{key}" for key in all_keys(value))


def _freeze(value: Any) -> Any:
    return tuple(_freeze(item) for item in value) if isinstance(value, list | tuple) else value


def save_config(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Keeps the resolved config in a workdir, or checks that it is the one kept there.

    Raises:
      InputError: the workdir was made with another config.
    """
    path = workdir / CONFIG_FILE
    values = _comparable(config)
    if path.exists():
        differences = list(_find_differences(_read(path), values))
        if differences:
            more = len(differences) - NUM_DIFFERENCES
            found = "; ".join(differences[:NUM_DIFFERENCES]) + f" and {more} more" * (more > 0)
            raise InputError(
                f"{path}: {found}, as --config says; give the config that this workdir was "
                "made with, or another --workdir"
            )
        return
    write_json(path, values)


def load_config(workdir: pathlib.Path) -> ConfigDict:
    """The config a workdir was made with.

    Raises:
      InputError: there is none.
    """
    path = workdir / CONFIG_FILE
    if not path.exists():
        raise InputError(f"{path}: not found, expected a workdir of train.py; check its path")
    return ConfigDict(_read(path))


def _read(path: pathlib.Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise InputError(
            f"{path}: found no JSON ({error}), expected what train.py wrote; choose another workdir"
        ) from error


def _comparable(config: ConfigDict) -> dict[str, Any]:
    """The config as JSON has it, without what says what to do now, and where, and not what is."""
    values = json.loads(config.to_json())
    return {name: value for name, value in values.items() if name not in OF_NOW}


def _find_differences(kept: Any, given: Any, where: str = "config") -> Iterator[str]:
    """ "found … , expected …" for each key that differs."""
    if isinstance(kept, dict) and isinstance(given, dict):
        for name in sorted(kept | given):
            key = f"{where}.{name}"
            if name not in kept:
                yield f"found no {key}, expected {given[name]!r}"
            elif name not in given:
                yield f"found {key}, expected none"
            else:
                yield from _find_differences(kept[name], given[name], key)
    elif kept != given:
        yield f"found {where} = {kept!r}, expected {given!r}"
