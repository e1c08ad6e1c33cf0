"""From a config to dataclasses, and the config a workdir was made with."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any, TypeVar

from ml_collections import ConfigDict

from sims_jax.errors import InputError

CONFIG_FILE = "config.json"
T = TypeVar("T")


def make(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """`cls(**values)` for a frozen dataclass, with lists as tuples.

    Raises:
      InputError: a key is unknown or missing; `where` names the part of the config.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}
    required = {name for name, field in fields.items() if field.default is dataclasses.MISSING}
    given = set(values.keys())
    unknown, missing = sorted(given - set(fields)), sorted(required - given)
    if unknown or missing:
        found = f"found {unknown[0]!r}" if unknown else f"found no {missing[0]!r}"
        raise InputError(f"{where}: {found}, expected the keys {', '.join(fields)}")
    return cls(**{name: _freeze(values[name]) for name in given})


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
        difference = _first_difference(_read(path), values)
        if difference:
            raise InputError(
                f"{path}: {difference}; give the workdir's own config, or another --workdir"
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
        raise InputError(f"{path}: not found, expected a workdir of train.py; check --workdir")
    return ConfigDict(_read(path))


def _read(path: pathlib.Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise InputError(
            f"{path}: found no JSON ({error}), expected what train.py wrote; choose another workdir"
        ) from error


def write_json(path: pathlib.Path, values: dict[str, Any]) -> None:
    """Writes a whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".json.tmp")
    aside.write_text(json.dumps(values, indent=2) + "\n")
    aside.replace(path)


def _comparable(config: ConfigDict) -> dict[str, Any]:
    """The config as JSON has it, without `stages`, which say what to do now and not what is."""
    values = json.loads(config.to_json())
    return {name: value for name, value in values.items() if name != "stages"}


def _first_difference(kept: Any, given: Any, where: str = "config") -> str:
    """ "found … , expected …" for the first key that differs; empty if none does."""
    if isinstance(kept, dict) and isinstance(given, dict):
        for name in sorted(kept | given):
            difference = _first_difference(kept.get(name), given.get(name), f"{where}.{name}")
            if difference:
                return difference
        return ""
    return "" if kept == given else f"found {where} = {given!r}, expected {kept!r} as before"
