"""Jobs: what a person asks for, parsed once at the door. A TOML file and the options of a verb give the same value.

An unknown key is an error that names the nearest known one: a misspelt option must not run for a night unnoticed.
"""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from hypermend.catalog.storage.hrefs import shown

SignScheme = Literal["none", "planetary-computer", "earthdata", "s3-requester-pays"]


class BadJob(Exception):
    """A job that cannot run as it is written: says which key, what it holds and what to do."""


class Job(BaseModel):
    """What every job has."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    archive: str
    """Root of the archive: a folder or s3://bucket/prefix."""
    workers: int | None = Field(default=None, ge=1)
    """Actors; None for one per GPU, else one per CPU."""
    gpus_per_worker: float | None = Field(default=None, ge=0)
    """GPUs of each actor: 0.25 for four on one; None for 1 where there are GPUs, else 0."""
    max_gpus: float | None = Field(default=None, gt=0)
    """Most GPUs that all actors of the job take together; None for all there are."""
    lane: Literal["nightly", "backfill"] | None = None
    """Each actor takes one `lane_<name>` of its machine: a backfill with fewer lanes than CPUs leaves room for the
    night. Means nothing where machines have no lanes."""
    ray_address: str | None = None
    """A running cluster ("auto" finds one on this machine); None for an embedded one."""
    deadline_s: float | None = Field(default=3600.0, gt=0)
    """Longest time one tile may take before it is put aside."""
    bbox: tuple[float, float, float, float] | None = None
    """West, south, east, north in degrees."""
    datetime: str | None = None
    """RFC 3339 instant or interval, open ends as "..": 2024-01-01/2024-06-30."""
    collections: tuple[str, ...] = ()
    sensor: str | None = None
    tile_px: int | None = Field(default=None, ge=16)
    """Edge of a tile (= one shard) in pixels, a multiple of 16; None for the default of model and cube."""

    def to_record(self) -> dict[str, Any]:
        """What was asked for, as a run keeps it: which kind of job, no default, and no signature or password."""
        asked = self.model_dump(mode="json", exclude_defaults=True)
        if "stac" in asked:
            asked["stac"] = shown(asked["stac"])
        return {"job": type(self).__name__, **asked}

    @field_validator("bbox")
    @classmethod
    def _west_to_east(cls, box: tuple[float, ...] | None) -> tuple[float, ...] | None:
        # west > east is a box over the date line
        if box is not None and not (max(abs(box[0]), abs(box[2])) <= 180 and -90 <= box[1] <= box[3] <= 90):
            raise ValueError(f"{box} is not west, south, east, north in degrees")
        return box

    @field_validator("tile_px")
    @classmethod
    def _whole_chunks(cls, tile_px: int | None) -> int | None:
        if tile_px is not None and tile_px % 16:
            raise ValueError(f"{tile_px} is not a multiple of 16")
        return tile_px


class IngestJob(Job):
    """Scenes -> source cubes."""

    stac: str | None = None
    """STAC API, static catalog or item; None for the archive's own raw items."""
    query: tuple[str, ...] = ()
    """Filters on item properties, such as eo:cloud_cover<20."""
    limit: int | None = Field(default=None, ge=1)
    bands: tuple[str, ...] = ()
    """Names of the bands to take; none for all of one grid."""
    gsd_m: float | None = Field(default=None, gt=0)
    """Pixel size of the grid to ingest on, where an item has several."""
    sign: SignScheme = "none"


TASKS = ("denoise", "sharpen", "fuse")


class RestoreJob(Job):
    """Source cubes -> restored cubes."""

    task: str = "denoise"
    """denoise, sharpen or fuse, or a chain in one read and one write: denoise,sharpen."""
    model: str | None = None
    """Name of the model, in the archive or built in; of a chain one for each task, with commas. None: chosen for each
    scene."""
    scale: int | None = Field(default=None, ge=2)
    """Sharpen: how many times finer; None for the model's, or 2."""
    scenes: tuple[str, ...] = ()
    """Ids of the scenes; none for all that match."""
    guide_collection: str | None = None
    """Fuse: the collection of the sharper images; its source cubes are the guides."""
    budget_steps: int | None = Field(default=None, ge=0)
    """Fuse: most steps that a block adapts; None for the default, 0 for no adaptation."""
    budget_seconds: float | None = Field(default=None, gt=0)
    """Fuse: longest time that a block adapts. The result then depends on the machine; None for no limit."""
    memory_gib: float | None = Field(default=None, gt=0)
    """What one worker may take; a tile that needs more is refused. None for an even share of this machine."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """The task, or those of the chain, first done first."""
        return tuple(part.strip() for part in self.task.split(","))

    @property
    def models(self) -> tuple[str, ...]:
        """The models asked for, one for each task; none where they are chosen."""
        return () if self.model is None else tuple(part.strip() for part in self.model.split(","))

    @field_validator("task")
    @classmethod
    def _known_tasks(cls, task: str) -> str:
        parts = [part.strip() for part in task.split(",")]
        if unknown := [part for part in parts if part not in TASKS]:
            raise ValueError(f"{unknown[0]!r} is no task; there are {', '.join(TASKS)}")
        if len(parts) > 1 and "fuse" in parts:
            raise ValueError("a fusion is no part of a chain; run it by itself")
        if len(parts) > 1 and parts != ["denoise", "sharpen"]:
            raise ValueError("the one chain is denoise,sharpen: on finer pixels noise looks like texture")
        return ",".join(parts)

    @model_validator(mode="after")
    def _models_and_scale(self) -> RestoreJob:
        if self.models and (len(self.models) != len(self.tasks) or not all(self.models)):
            raise ValueError(f"task {self.task!r} takes {len(self.tasks)} of --model, with commas; got {self.model!r}")
        if self.scale is not None and "sharpen" not in self.tasks:
            raise ValueError(f"scale belongs to task 'sharpen', and the task is {self.task!r}")
        return self

    @model_validator(mode="after")
    def _guide_for_fusion_only(self) -> RestoreJob:
        given = [
            key for key in ("guide_collection", "budget_steps", "budget_seconds") if getattr(self, key) is not None
        ]
        if self.task == "fuse" and self.guide_collection is None:
            raise ValueError("task 'fuse' needs guide_collection, the collection of the sharper images")
        if self.task != "fuse" and given:
            raise ValueError(f"{', '.join(given)} belong to task 'fuse', and the task is {self.task!r}")
        return self


class NightlyJob(IngestJob, RestoreJob):
    """What is new, replaced or failed before, from its files to its restored cube; once, safe to call at any time."""

    name: str = Field(default="nightly", pattern=r"^[A-Za-z0-9._-]{1,80}$")
    """Of what it remembers in the archive; two jobs of one name are one."""
    attempts: int = Field(default=3, ge=1)
    """Nights in which a scene that fails is tried before a person must look."""
    lane: Literal["nightly", "backfill"] | None = "nightly"


class SearchJob(Job):
    """Source cubes -> a genotype for each sensor."""

    sensors: tuple[str, ...] = Field(min_length=1)
    strategy: Literal["darts", "spos"] = "darts"
    trials: int | None = Field(default=None, ge=1)
    """Of each sensor; None for the budget's."""
    budget: Literal["smoke", "small", "full"] = "small"
    domain: Literal["subspace", "bands"] = "subspace"
    """Coefficients of the signal subspace, which the shipped denoiser works on, or the bands themselves."""
    scenes: tuple[str, ...] = ()
    """Ids of the scenes to learn from; none for all of the sensor."""
    anew: bool = False
    """Search although a genotype of a near spectrum is known."""


class TrainJob(Job):
    """Source cubes -> a model in the archive."""

    task: Literal["denoise", "sharpen", "fuse"]
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    """Of the model: the folder models/<name>."""
    scenes: tuple[str, ...] = ()
    """Ids of the scenes to learn from; none for all that match."""
    validation_scenes: tuple[str, ...] = ()
    """Ids of the scenes to be scored on; none for a tenth of those that match, at least one."""
    guide_collection: str | None = None
    """Fuse: half of the pairs have the response of its sensors."""
    genotype: str | None = None
    """Denoise: id of an architecture that `hypermend search` found; None for that of the shipped denoiser."""
    scale: Literal[2, 3, 4] | None = None
    """Sharpen; None for 2."""
    filters: int | None = Field(default=None, ge=1)
    """Sharpen; None for 16, the paper has 64."""
    modules: int | None = Field(default=None, ge=1)
    """Sharpen; None for 1, the paper has 3."""
    steps: int | None = Field(default=None, ge=1)
    minutes: float | None = Field(default=None, gt=0)
    """The end is whichever of steps and minutes comes first."""
    batch: int | None = Field(default=None, ge=1)
    """Samples of a step over all workers; None for the task's."""
    patch_px: int | None = Field(default=None, ge=16)
    """Edge of a sample; None for the task's."""
    learning_rate: float | None = Field(default=None, gt=0)
    seed: int = Field(default=0, ge=0)
    check_every: int | None = Field(default=None, ge=1)
    """Steps between validations; None for a twentieth of the steps."""
    patience: int | None = Field(default=8, ge=1)
    """Validations without gain after which training ends."""
    bf16: bool | None = None
    """Mixed precision; None where the hardware gains from it."""
    freeze_norm: bool = False
    """Denoise: batch normalisation keeps its first statistics; then the workers' number changes nothing."""
    gpus: bool = False
    """One GPU for each worker."""
    tensorboard: Path | None = None
    """Folder that gets TensorBoard's event files."""

    @model_validator(mode="after")
    def _of_one_task(self) -> TrainJob:
        if self.steps is None and self.minutes is None:
            raise ValueError("training needs an end: give steps, minutes or both")
        own = {
            "fuse": ("guide_collection",),
            "denoise": ("genotype", "freeze_norm"),
            "sharpen": ("scale", "filters", "modules"),
        }
        for task, keys in own.items():
            given = [key for key in keys if getattr(self, key)]
            if task != self.task and given:
                raise ValueError(f"{', '.join(given)} belong to task {task!r}, and the task is {self.task!r}")
        return self


class EvaluateJob(Job):
    """Source cubes and a model -> a table of figures."""

    model: str
    """Name, in the archive or built in."""
    task: Literal["denoise", "sharpen", "fuse"] = "denoise"
    scenes: tuple[str, ...] = ()
    """Ids of the scenes; none for all that match."""
    sigma: tuple[int, ...] = (30, 50, 70)
    """Denoise: noise, of 255."""
    scale: int | None = Field(default=None, ge=2)
    """Sharpen: must be the model's. Fuse: coarse pixels over fine ones; None for 8."""
    guide_sensor: str | None = None
    """Fuse: whose bands the guide has; None for the camera of CAVE's pairs, Sentinel-2A elsewhere."""
    crop_px: int | None = Field(default=None, ge=16)
    """Edge of what is scored; None for the protocol's."""
    trained_on_too: bool = False
    """Score scenes that the model was trained on, and mark them."""


J = TypeVar("J", bound=Job)


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


def load_job(path: Path, kind: type[J], **overrides: Any) -> J:
    """Read a TOML job file; options given on the command line win over the file.

    Raises:
        BadJob: no such file, not TOML, or as ``parse``.
    """
    try:
        settings = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise BadJob(f"{path}: there is no such job file") from None
    except OSError as error:
        raise BadJob(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadJob(f"{path}: not a TOML file: {error}") from None
    return parse(kind, settings | overrides, where=str(path))


def _complaint(kind: type[Job], detail: Any) -> str:
    key = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        nearest = difflib.get_close_matches(key, kind.model_fields, n=1, cutoff=0.0)
        return f"unknown key {key!r}; did you mean {nearest[0]!r}?"
    if detail["type"] == "missing":
        return f"key {key!r} is missing"
    if not key:  # about several keys at once
        return str(detail["msg"]).removeprefix("Value error, ")
    return f"{key}: {detail['msg']} (got {detail['input']!r})"
