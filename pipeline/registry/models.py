"""Models of an archive, which go before those that ship, and the defaults promoted in it.

models/<name>/{card.json, weights.safetensors}
models/defaults.json                            {sensor: {"denoise": name, "sharpen-x2": name, ...}}
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hypermend.catalog.documents import check_storable
from hypermend.catalog.errors import ArchiveError, NotFound, Refused
from hypermend.catalog.storage.archive_store import ArchiveStore, NotJson, to_json
from hypermend.models.card import BadCard, ModelCard
from hypermend.models.checkpoint import CARD, WEIGHTS, builtin, builtins, load, load_fusion

if TYPE_CHECKING:
    from hypermend.models.fuse.interface import FusionModel
    from hypermend.models.restorer import Model

M = TypeVar("M", "Model", "FusionModel")
FOLDER = "models"
DEFAULTS = f"{FOLDER}/defaults.json"
TRIES = 20
"""Of a change of the defaults, as others change them at the same time."""


def load_model(root: ArchiveStore, name: str) -> Model:
    """Load the model ``name`` of the archive, or the built-in one."""
    return _read_model(root, name, load)


def load_pair_model(root: ArchiveStore, name: str) -> FusionModel:
    """Load a model that fuses two images."""
    return _read_model(root, name, load_fusion)


def _read_model(root: ArchiveStore, name: str, read: Callable[[Path], M]) -> M:
    with tempfile.TemporaryDirectory() as folder:
        for file in (CARD, WEIGHTS):
            try:
                (Path(folder) / file).write_bytes(root.get(f"{FOLDER}/{name}/{file}"))
            except NotFound:
                if file == CARD:
                    return read(builtin(name))
        return read(Path(folder))


def model_card(root: ArchiveStore | None, name: str) -> ModelCard:
    """Read the card alone: a plan needs no more of a model.

    Raises:
        BadCheckpoint: there is no such model.
        BadCard: its card cannot be read.
    """
    if root is not None:
        try:
            return _card(root, name)
        except NotFound:
            pass  # not in the archive: a built-in one
    return ModelCard.read(builtin(name) / CARD)


def _card(root: ArchiveStore, name: str) -> ModelCard:
    key = f"{FOLDER}/{name}/{CARD}"
    try:
        data = root.get_json(key)
        check_storable(data)
    except (NotJson, Refused, ValueError) as error:
        raise BadCard(f"{root.href(key)}: {error}") from error
    if not isinstance(data, dict):
        raise BadCard(f"{root.href(key)} holds a {type(data).__name__}, not a JSON object")
    try:
        return replace(ModelCard.from_dict(data), name=name)  # a folder that was copied has the name it has now
    except BadCard as error:
        raise BadCard(f"{root.href(key)}: {error}") from error


def archived(root: ArchiveStore) -> Iterator[tuple[str, ModelCard | BadCard]]:
    """Name and card of every model of the archive, by name; a card that cannot be read comes as its error."""
    for name in root.folders(FOLDER):
        try:
            yield name, _card(root, name)
        except BadCard as error:
            yield name, error
        except NotFound:
            continue  # a checkpoint that is being written: the card comes last


def shipped() -> Iterator[tuple[str, ModelCard]]:
    """Name and card of every built-in model."""
    for name in builtins():
        yield name, ModelCard.read(builtin(name) / CARD)


def defaults(root: ArchiveStore) -> dict[str, dict[str, str]]:
    """The promoted models: {sensor: {slot: name}}.

    Raises:
        Refused: the file is damaged.
    """
    try:
        table: Any = root.get_json(DEFAULTS)
    except NotFound:
        return {}
    except NotJson as error:
        raise Refused(f"{error}; remove it and promote again") from error
    rows = table.values() if isinstance(table, dict) else [None]
    if not all(isinstance(row, dict) and all(isinstance(name, str) for name in row.values()) for row in rows):
        raise Refused(f"{root.href(DEFAULTS)} is no table of sensors; remove it and promote again")
    return dict(table)


def promote(root: ArchiveStore, sensor: str, where: str, name: str | None) -> str | None:
    """Make a model the default of a sensor; None takes the default away. Returns the one before."""
    for _ in range(TRIES):
        stored = root.stat(DEFAULTS)
        table = defaults(root)
        of_sensor = table.setdefault(sensor, {})
        before = of_sensor.pop(where, None)
        if name is not None:
            of_sensor[where] = name
        if not of_sensor:
            del table[sensor]
        # On condition that nobody has changed the table since: of two at once, the second reads it again.
        if root.put_if(DEFAULTS, to_json(table), None if stored is None else stored.version) is not None:
            return before
    raise ArchiveError(
        f"{root.href(DEFAULTS)}: it was changed {TRIES} times before this change could be made; try again"
    )
