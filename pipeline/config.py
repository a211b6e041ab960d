"""Jobs: the user's request, parsed once at the door. A TOML file and the options of a verb give the same value.

An unknown key is an error that names the nearest one: a misspelt option must not run for a night unnoticed.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo

from hypermend.catalog.documents import MAX_NESTED
from hypermend.catalog.errors import BadAsset
from hypermend.catalog.meaning.overrides import Overrides
from hypermend.catalog.meaning.statement import Field as Fact
from hypermend.catalog.scene import AUTO
from hypermend.catalog.storage.hrefs import redact
from hypermend.catalog.storage.regular_file import open_regular
from hypermend.models.card import MOST_CHANNELS, MOST_LAYERS
from hypermend.pipeline import user_values

JOB_BYTES = 1 << 20
"""Of a job file."""
SignScheme = Literal["none", "planetary-computer", "earthdata", "dlr", "s3-requester-pays"]


class BadJob(Exception):
    """A job that cannot run as it is written: names the key, its value and what to do."""


@dataclass(frozen=True)
class Option:
    """Option of a field on the command line, where it is not `--` and the field's name."""

    name: str | None
    """None: only a job file can set the field."""
    metavar: str | None = None
    text: bool = False
    """The command line takes one text, and the field reads it."""


@dataclass(frozen=True)
class OfTask:
    """A field that belongs to one task: other tasks refuse it, and its help begins with the task."""

    task: str
    needed: bool = False
    """The task refuses to run without it."""


FILE_ONLY = Option(None)
Scenes = Annotated[tuple[str, ...], Option("--scene")]
Overviews = Annotated[
    bool | None,
    Field(description="Write coarser copies of each cube longer than 256 pixels, for viewers; default: yes."),
]
EngineName = Annotated[
    Literal["auto", "ray", "process"],
    Field(
        description="What runs the tiles: Ray, or one process without it, which a small job ends sooner. auto: one "
        "process where the job has few tiles and neither --workers, --address nor a GPU."
    ),
]
Lane = Annotated[Literal["nightly", "backfill"] | None, FILE_ONLY]


_ARCHIVE = "Root of the archive: a folder or s3://bucket/prefix; default: $HYPERMEND_ARCHIVE."


class Settings(BaseModel):
    """Options of a verb. They and their help are made from the fields (`cli/verb.py`)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Job(Settings):
    """The fields that every job has."""

    archive: str = Field(description=_ARCHIVE)
    workers: int | None = Field(
        default=None, ge=1, description="Number of worker processes; default: one per GPU, else one per CPU."
    )
    gpus_per_worker: Annotated[float | None, FILE_ONLY] = Field(
        default=None,
        ge=0,
        description="GPUs of each worker: 0.25 for four workers on one GPU; default: 1 where there are GPUs, else 0.",
    )
    max_gpus: Annotated[float | None, FILE_ONLY] = Field(
        default=None, gt=0, description="Most GPUs that all workers of the job use together; default: all."
    )
    lane: Lane = Field(
        default=None,
        description="Each worker takes one `lane_<name>` of its machine: a backfill with fewer lanes than CPUs leaves "
        "room for the nightly job. No effect where machines have no lanes.",
    )
    ray_address: Annotated[str | None, Option("--address")] = Field(
        default=None,
        description="Address of a running Ray cluster; `auto` finds one on this machine. Default: an embedded one.",
    )
    deadline_s: Annotated[float | None, Option("--deadline")] = Field(
        default=3600.0, gt=0, description="Longest time that one tile may take, in seconds; then the tile fails."
    )
    bbox: Annotated[tuple[float, float, float, float] | None, Option("--bbox", metavar="W S E N")] = Field(
        default=None, description="West, south, east, north in degrees; west > east crosses the date line."
    )
    datetime: str | None = Field(
        default=None, description="RFC 3339 instant or interval, open ends as '..': 2024-01-01/2024-06-30."
    )
    collections: Annotated[tuple[str, ...], Option("--collection")] = Field(
        default=(), description="Id of a collection; default: all."
    )
    sensor: str | None = Field(
        default=None, description="Name of a sensor: enmap, hyperion, sentinel2a, cave, ...; default: all."
    )
    tile_px: int | None = Field(
        default=None,
        ge=16,
        description="Edge of a tile (one shard) in pixels, a multiple of 16; default: that of the model and the cube.",
    )

    def to_record(self) -> dict[str, Any]:
        """Return the job as a run stores it: its class and the fields that are set, without signature or password."""
        record = self.model_dump(mode="json", exclude_defaults=True)
        urls = {name: text for name, text in record.items() if isinstance(text, str) and "://" in text}
        record |= {name: redact(url) for name, url in urls.items()}
        return {"job": type(self).__name__, **record}

    @field_validator("bbox")
    @classmethod
    def _west_to_east(cls, box: tuple[float, ...] | None) -> tuple[float, ...] | None:
        # west > east is a box over the date line, and so is 170 to 190
        if box is not None and not (max(abs(box[0]), abs(box[2])) <= 360 and -90 <= box[1] <= box[3] <= 90):
            raise ValueError(f"{box} is not west, south, east, north in degrees")
        return box

    @field_validator("tile_px")
    @classmethod
    def _whole_chunks(cls, tile_px: int | None) -> int | None:
        if tile_px is not None and tile_px % 16:
            raise ValueError(f"{tile_px} is not a multiple of 16")
        return tile_px


class FileSettings(Settings):
    """The user's word for what files do not say. It wins over every other source."""

    scene_datetime: Annotated[datetime | None, Option("--scene-datetime", metavar="TIME", text=True)] = Field(
        default=None, description="Time of the acquisition, such as 2022-07-24T10:45:26Z; UTC without an offset."
    )
    allow_mtime: bool = Field(
        default=False,
        description="Date scenes by the last change of their files if nothing else does; such a time pairs no guide.",
    )
    quantity: Literal["reflectance", "radiance", "counts"] | None = Field(
        default=None, description="Quantity of the pixel values."
    )
    units: str | None = Field(
        default=None, min_length=1, description="Unit of the values after scale and offset: 'W m-2 sr-1 um-1'."
    )
    scale_factor: Annotated[tuple[float, ...] | None, Option("--scale-factor", metavar="NUMBER|LIST", text=True)] = (
        Field(default=None, description="value = stored number * scale factor + offset; one, or one per band.")
    )
    add_offset: Annotated[tuple[float, ...] | None, Option("--add-offset", metavar="NUMBER|LIST", text=True)] = Field(
        default=None, description="Offset; one, or one per band with commas."
    )
    nodata: float | None = Field(default=None, allow_inf_nan=False, description='Stored number that means "no data".')
    wavelengths: Annotated[tuple[float, ...] | None, Option("--wavelengths", metavar="FILE|LIST", text=True)] = Field(
        default=None,
        description="Centres of the bands in nm: a list with commas, or a file of one column or with columns "
        "wavelength,fwhm.",
    )
    fwhm: Annotated[tuple[float, ...] | None, FILE_ONLY] = Field(
        default=None, description="Widths of the bands in nm; those of the file of wavelengths, if it has them."
    )
    crs: str | None = Field(default=None, description="Coordinate reference system of the grid: EPSG:32633, or WKT.")
    sensors: Annotated[Path | None, Option("--sensors", metavar="DIR")] = Field(
        default=None, description="Folder with sensor tables of your own; those in use are copied to the archive."
    )

    @property
    def overrides(self) -> Overrides:
        """The user's word as the catalog takes it."""
        said = {
            Fact.QUANTITY: self.quantity,
            Fact.UNITS: self.units,
            Fact.SCALE: _single(self.scale_factor),
            Fact.OFFSET: _single(self.add_offset),
            Fact.NODATA: self.nodata,
            Fact.WAVELENGTH: None if self.wavelengths is None else list(self.wavelengths),
            Fact.FWHM: None if self.fwhm is None else list(self.fwhm),
            Fact.CRS: self.crs,
        }
        values = {field: value for field, value in said.items() if value is not None}
        return Overrides(values=values, datetime=self.scene_datetime, allow_mtime=self.allow_mtime)

    @model_validator(mode="before")
    @classmethod
    def _widths_of_the_file(cls, data: Any) -> Any:
        """Read the file of wavelengths, which may hold widths, too."""
        if isinstance(data, dict) and isinstance(text := data.get("wavelengths"), str):
            try:
                centres, widths = user_values.wavelengths(text)
            except ValueError as e:
                raise ValueError(f"wavelengths {text!r}: {e}") from None
            data = {**data, "wavelengths": centres} | ({} if widths is None else {"fwhm": widths})
        return data

    @field_validator("scale_factor", "add_offset", mode="before")
    @classmethod
    def _numbers(cls, value: Any) -> Any:
        if isinstance(value, str):
            return user_values.numbers(value)
        return (value,) if isinstance(value, int | float) else value

    @field_validator("scale_factor")
    @classmethod
    def _no_zero(cls, value: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if value is not None and 0 in value:
            raise ValueError("a scale factor of 0 leaves no image")
        return value

    @field_validator("scene_datetime", mode="before")
    @classmethod
    def _time(cls, value: Any) -> Any:
        return value if value is None else user_values.time(str(value))

    @field_validator("crs")
    @classmethod
    def _known_crs(cls, value: str | None) -> str | None:
        return None if value is None else user_values.crs(value)

    @model_validator(mode="after")
    def _one_width_per_band(self) -> Self:
        if self.fwhm is not None and (self.wavelengths is None or len(self.fwhm) != len(self.wavelengths)):
            raise ValueError("fwhm needs as many wavelengths beside it")
        return self


def _single(values: tuple[float, ...] | None) -> float | list[float] | None:
    """One number for all bands as a number."""
    return None if values is None else values[0] if len(values) == 1 else list(values)


class CatalogSettings(FileSettings):
    """Files -> raw items."""

    archive: str = Field(description=_ARCHIVE)
    sensor: str = Field(
        default=AUTO, description="Name of a sensor table; auto: the files say it themselves, or need none."
    )
    collection: str | None = Field(default=None, description="Id of the collection; default: the sensor's name.")
    scene_datetime: Annotated[datetime | None, Option("--datetime", metavar="TIME", text=True)] = Field(
        default=None, description="Time of the acquisition, such as 2022-07-24T10:45:26Z; UTC without an offset."
    )


class InspectSettings(FileSettings):
    """Files or items -> what they are taken for."""

    archive: str | None = Field(default=None, description="Archive of an item that is given by its id.")
    sensor: str = Field(
        default=AUTO, description="Name of a sensor table; auto: the files say it themselves, or need none."
    )
    scene_datetime: Annotated[datetime | None, Option("--datetime", metavar="TIME", text=True)] = Field(
        default=None, description="Time of the acquisition, such as 2022-07-24T10:45:26Z; UTC without an offset."
    )
    sign: SignScheme = Field(default="none", description="How the addresses of the files are signed.")


class IngestJob(FileSettings, Job):
    """Scenes -> source cubes."""

    sensor: str | None = Field(
        default=None,
        description="Name of a sensor: of these scenes, and with --stac that of the items that do not name theirs. "
        "Default: all, and the files say it.",
    )
    stac: str | None = Field(
        default=None, description="STAC API, static catalog or item; default: the archive's own raw items."
    )
    query: tuple[str, ...] = Field(default=(), description="Filter on an item property, such as 'eo:cloud_cover<20'.")
    limit: int | None = Field(default=None, ge=1, description="Largest number of scenes.")
    bands: tuple[str, ...] = Field(default=(), description="Name of a band to ingest; default: all bands of one grid.")
    gsd_m: Annotated[float | None, Option("--gsd")] = Field(
        default=None, gt=0, description="Pixel size in metres of the grid to ingest, where an item has several."
    )
    sign: SignScheme = Field(default="none", description="How the addresses of the files are signed.")
    engine: EngineName = "auto"
    overviews: Overviews = None

    @field_validator("sensor")
    @classmethod
    def _auto_is_the_default(cls, sensor: str | None) -> str | None:
        return None if sensor == AUTO else sensor


FILE_FIELDS = tuple(FileSettings.model_fields)
"""Fields that decide how files are read."""
TASKS = ("denoise", "sharpen", "fuse")
CHAINS = (("denoise", "sharpen"),)
"""Tasks that follow each other in one read and one write."""


def owner_of(field: FieldInfo) -> OfTask | None:
    """Return the task that a field belongs to; None where every task takes it."""
    return next((mark for mark in field.metadata if isinstance(mark, OfTask)), None)


def _check_fields_of_tasks(job: Job, tasks: Sequence[str]) -> None:
    """Compare the fields that are set with the tasks that they belong to.

    Raises:
        ValueError: a field of another task is set, or one that a task needs is not.
    """
    for name, field in type(job).model_fields.items():
        owner = owner_of(field)
        if owner is None:
            continue
        given = getattr(job, name) not in (None, False, field.default)
        if given and owner.task not in tasks:
            raise ValueError(f"{name} belongs to task {owner.task!r}, and the task is {','.join(tasks)!r}")
        if owner.needed and not given and owner.task in tasks:
            raise ValueError(f"task {owner.task!r} needs {name}: {field.description}")


class RestoreJob(Job):
    """Source cubes -> restored cubes."""

    task: str = Field(
        default="denoise", description="denoise, sharpen, fuse, or a chain in one read and one write: denoise,sharpen."
    )
    model: str | None = Field(
        default=None,
        description="Name of the model, in the archive or built in; for a chain one per task, with commas. Default: "
        "selected for each scene.",
    )
    scale: Annotated[int | None, OfTask("sharpen")] = Field(
        default=None, ge=2, description="How many times finer; default: that of the model, or 2."
    )
    destripe: Annotated[Literal["off", "on"], OfTask("denoise")] = Field(
        default="off",
        description="on: subtract the offsets of single columns in single bands before denoising; for images in "
        "detector geometry. Edges of the scene along the whole track may be taken for stripes.",
    )
    fill_bands: Annotated[Literal["off", "on"], OfTask("denoise")] = Field(
        default="off",
        description="on: predict isolated bad bands from the good bands beside them; they stay marked as bad. Never in "
        "absorption windows.",
    )
    uncertainty: Annotated[Literal["off", "on"], OfTask("denoise")] = Field(
        default="off",
        description="on: write the standard deviation of every restored number, `reflectance_std`. Fusion and "
        "sharpening have none.",
    )
    scenes: Scenes = Field(default=(), description="Id of a scene; default: all that match.")
    guide_collection: Annotated[str | None, OfTask("fuse", needed=True)] = Field(
        default=None, description="Collection of the sharper images; its source cubes are the guides."
    )
    budget_steps: Annotated[int | None, OfTask("fuse")] = Field(
        default=None, ge=0, description="Largest number of adaptation steps per block; 0 for no adaptation."
    )
    budget_seconds: Annotated[float | None, OfTask("fuse")] = Field(
        default=None,
        gt=0,
        description="Longest adaptation time per block, in seconds. The result then depends on the machine; "
        "default: no limit.",
    )
    memory_gib: float | None = Field(
        default=None,
        gt=0,
        le=1e6,
        description="Memory that one worker may use, in GiB; a tile that needs more is refused. Default: an even share "
        "of this machine.",
    )
    engine: EngineName = "auto"
    overviews: Overviews = None

    @property
    def tasks(self) -> tuple[str, ...]:
        """The task, or those of the chain in their order."""
        return tuple(part.strip() for part in self.task.split(","))

    @property
    def models(self) -> tuple[str, ...]:
        """The models of the job, one for each task; none where they are selected for each scene."""
        return () if self.model is None else tuple(part.strip() for part in self.model.split(","))

    @field_validator("task")
    @classmethod
    def _known_tasks(cls, task: str) -> str:
        parts = [part.strip() for part in task.split(",")]
        if unknown := [part for part in parts if part not in TASKS]:
            raise ValueError(f"{unknown[0]!r} is no task; there are {', '.join(TASKS)}")
        if len(parts) > 1 and tuple(parts) not in CHAINS:
            chains = " and ".join(",".join(chain) for chain in CHAINS)
            raise ValueError(
                f"{','.join(parts)!r} is no chain, there is {chains}: a fusion runs by itself, and on finer pixels "
                "noise looks like texture"
            )
        return ",".join(parts)

    @model_validator(mode="after")
    def _a_model_for_each_task(self) -> RestoreJob:
        if self.models and (len(self.models) != len(self.tasks) or not all(self.models)):
            raise ValueError(f"task {self.task!r} takes {len(self.tasks)} of --model, with commas; got {self.model!r}")
        _check_fields_of_tasks(self, self.tasks)
        return self


class NightlyJob(IngestJob, RestoreJob):
    """Restores every scene that is new, has been replaced or failed before, from its files to its restored cube."""

    name: str = Field(
        default="nightly",
        pattern=r"^[A-Za-z0-9._-]{1,80}$",
        description="Name of its state in the archive; two jobs of one name are the same job.",
    )
    attempts: int = Field(default=3, ge=1, description="Nights in which a scene that fails is tried.")
    lane: Lane = "nightly"


class SearchJob(Job):
    """Source cubes -> a genotype for each sensor."""

    sensors: Annotated[tuple[str, ...], Option("--sensor")] = Field(
        min_length=1, description="Name of a sensor table; several share the cluster."
    )
    strategy: Literal["darts", "spos"] = Field(default="darts", description="Search strategy.")
    trials: int | None = Field(
        default=None, ge=1, description="Number of trials per sensor; default: that of the budget."
    )
    budget: Literal["smoke", "small", "full"] = Field(
        default="small", description="Size of the search; smoke takes two minutes."
    )
    domain: Literal["subspace", "bands"] = Field(
        default="subspace",
        description="Coefficients of the signal subspace, which the shipped denoiser works on, or the bands "
        "themselves.",
    )
    scenes: Scenes = Field(default=(), description="Id of a scene to learn from; default: all of the sensor.")
    anew: bool = Field(default=False, description="Search even if a similar genotype exists.")


class TrainJob(Job):
    """Source cubes -> a model in the archive."""

    task: Literal["denoise", "sharpen", "fuse"] = Field(description="Task of the model.")
    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$", description="Name of the new model, stored as models/NAME."
    )
    scenes: Scenes = Field(default=(), description="Id of a scene to learn from; default: all that match.")
    validation_scenes: Annotated[tuple[str, ...], Option("--validation-scene")] = Field(
        default=(), description="Id of a scene for validation; default: a tenth of those that match, at least one."
    )
    guide_collection: Annotated[str | None, OfTask("fuse")] = Field(
        default=None, description="Half of the pairs have the spectral response of its sensors."
    )
    pair_scale: Annotated[int | None, OfTask("fuse")] = Field(
        default=None,
        ge=2,
        description="Learn a filter of one pair of sensors, that of the scenes and the guide collection, whose pixels "
        "are so many times finer; default: a network for any pair.",
    )
    genotype: Annotated[str | None, OfTask("denoise")] = Field(
        default=None,
        description="Id of an architecture that `hypermend search` found; default: that of the shipped denoiser.",
    )
    scale: Annotated[Literal[2, 3, 4] | None, OfTask("sharpen")] = Field(
        default=None, description="How many times finer; default: 2."
    )
    filters: Annotated[int | None, OfTask("sharpen")] = Field(
        default=None, ge=1, le=MOST_CHANNELS, description="Filters of the network; default: 16, the paper has 64."
    )
    modules: Annotated[int | None, OfTask("sharpen")] = Field(
        default=None, ge=1, le=MOST_LAYERS, description="Modules of the network; default: 1, the paper has 3."
    )
    steps: int | None = Field(default=None, ge=1, description="End after this many steps, if that comes first.")
    minutes: float | None = Field(default=None, gt=0, description="End after this many minutes, if that comes first.")
    batch: int | None = Field(
        default=None, ge=1, description="Samples per step over all workers; default: that of the task."
    )
    patch_px: int | None = Field(
        default=None, ge=16, description="Edge of a sample in pixels; default: that of the task."
    )
    learning_rate: float | None = Field(default=None, gt=0, description="Learning rate; default: that of the task.")
    seed: int = Field(default=0, ge=0, description="Seed of the weights and of the samples.")
    check_every: int | None = Field(
        default=None, ge=1, description="Steps between validations; default: a twentieth of the steps."
    )
    patience: int | None = Field(
        default=8, ge=1, description="Validations without improvement after which training ends."
    )
    bf16: bool | None = Field(default=None, description="Mixed precision; default: where the hardware is faster.")
    freeze_norm: Annotated[bool, OfTask("denoise")] = Field(
        default=False,
        description="Batch normalisation keeps its first statistics; the number of workers then changes nothing.",
    )
    gpus: bool = Field(default=False, description="One GPU for each worker.")
    tensorboard: Path | None = Field(default=None, description="Folder for TensorBoard's event files.")

    @model_validator(mode="after")
    def _end_and_task(self) -> TrainJob:
        if self.steps is None and self.minutes is None:
            raise ValueError("training needs an end: give steps, minutes or both")
        _check_fields_of_tasks(self, (self.task,))
        return self


class EvaluateJob(Job):
    """Source cubes and a model -> a table of scores."""

    model: str = Field(description="Name of the model, in the archive or built in.")
    task: Literal["denoise", "sharpen", "fuse"] = Field(default="denoise", description="Task of the model.")
    scenes: Scenes = Field(default=(), description="Id of a scene; default: all that match.")
    sigma: tuple[int, ...] = Field(
        default=(30, 50, 70), description="Denoise: standard deviation of the noise on a scale of 255."
    )
    scale: int | None = Field(
        default=None,
        ge=2,
        description="Sharpen: that of the model. Fuse: edge of a coarse pixel in fine ones; default: 8.",
    )
    guide_sensor: str | None = Field(
        default=None,
        description="Fuse: sensor whose bands the guide has; default: the camera of CAVE's pairs, else Sentinel-2A.",
    )
    crop_px: int | None = Field(
        default=None, ge=16, description="Edge in pixels of the crop that is scored; default: that of the protocol."
    )

    @field_validator("sigma")
    @classmethod
    def _noise_of_a_scale(cls, sigma: tuple[int, ...]) -> tuple[int, ...]:
        if not all(0 <= value <= 10_000 for value in sigma):
            raise ValueError("a standard deviation is 0 to 10000")
        return sigma

    trained_on_too: bool = Field(
        default=False, description="Also score the scenes that the model was trained on, and mark them."
    )


J = TypeVar("J", bound=Settings)


def parse(kind: type[J], settings: dict[str, Any], *, where: str) -> J:
    """Check ``settings`` and freeze them.

    Raises:
        BadJob: an unknown key or a value that does not fit; one line for each.
    """
    try:
        return kind(**settings)
    except ValidationError as error:
        lines = [_complaint(kind, detail) for detail in error.errors()]
        raise BadJob(f"{where}: " + "; ".join(lines)) from None


def read_job(path: Path) -> bytes:
    """The bytes of a job file, up to one more than `parse_toml` takes.

    Raises:
        BadJob: no such file, or a folder, a FIFO or a device.
    """
    try:
        with open_regular(path) as file:
            return file.read(JOB_BYTES + 1)
    except FileNotFoundError:
        raise BadJob(f"{path}: there is no such job file") from None
    except OSError as error:
        raise BadJob(f"{path}: {error.strerror}") from None
    except BadAsset as error:
        raise BadJob(str(error)) from None


def parse_toml(data: bytes) -> dict[str, Any]:
    """The values of a TOML job.

    Raises:
        ValueError: no TOML, larger than `JOB_BYTES`, or nested too deeply.
    """
    if len(data) > JOB_BYTES:
        raise ValueError(f"it has more than {JOB_BYTES} bytes")
    text = data.decode()
    # The parser takes the square of the depth of a dotted key in time and memory.
    if any(part.count(".") > MAX_NESTED for part in re.split(r"[=,{}\[\]\n]", text)):
        raise ValueError(f"a key is nested deeper than {MAX_NESTED}")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def load_job(path: Path, kind: type[J], *, defaults: Mapping[str, Any] | None = None, **overrides: Any) -> J:
    """Read a TOML job file; options given on the command line win over the file, the file over the defaults.

    Raises:
        BadJob: no such file, not TOML, or as ``parse``.
    """
    try:
        settings = parse_toml(read_job(path))
    except ValueError as error:
        raise BadJob(f"{path}: not a TOML file: {error}") from None
    return parse(kind, dict(defaults or {}) | settings | overrides, where=str(path))


def _complaint(kind: type[Settings], detail: Any) -> str:
    key = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        nearest = difflib.get_close_matches(key, kind.model_fields, n=1, cutoff=0.0)
        return f"unknown key {key!r}; did you mean {nearest[0]!r}?"
    if detail["type"] == "missing":
        hint = "; give --archive, or set HYPERMEND_ARCHIVE" if key == "archive" else ""
        return f"key {key!r} is missing{hint}"
    if not key:  # about several keys at once
        return str(detail["msg"]).removeprefix("Value error, ")
    return f"{key}: {detail['msg']} (got {detail['input']!r})"
