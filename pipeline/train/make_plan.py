"""Make the plan of a training from the job of a user. No Ray, no pixel but the cubes' flags."""

from __future__ import annotations

import hashlib

import hypermend
from hypermend.catalog.cube.layout import read_spec
from hypermend.catalog.errors import Refused
from hypermend.catalog.keys import cube_key, scene_collection, source_collection
from hypermend.catalog.scene import Scene
from hypermend.catalog.sensor_tables import archive_tables
from hypermend.pipeline.config import TrainJob
from hypermend.pipeline.train.plan import (
    TrainingSources,
    TrainPlan,
    TrainSettings,
    spectral_range,
    training_areas,
    validation_crop,
)
from hypermend.pipeline.train.task_table import task_of_job

HELD_SHARE = 0.1
"""Share of the scenes that is held out, where no validation scenes are named."""
CHECKS, REPORTS = 20, 10
"""Number of validations of a training, and of reports between two of them, about."""
UNKNOWN_STEPS = 2000
"""Number of steps that the interval of validations is taken from, where only minutes are given."""


def plan_training(job: TrainJob) -> TrainPlan:
    """Plan a training.

    Raises:
        Refused: no or too few scenes or patches, scenes on both sides, bands that do not go together, fewer samples
            than workers, or an unknown genotype or guide. Nothing was written.
    """
    root = hypermend.open(job.archive).root
    train, held = _scenes(job)
    keys = {scene.id: cube_key(scene) for scene in (*train, *held)}
    specs = {keys[s.id]: read_spec(root, keys[s.id]) for s in train}
    spectrum = spectral_range(specs)
    task = task_of_job(job)
    batch, patch_px = job.batch or task.batch, job.patch_px or task.patch_px
    if job.workers is not None and job.workers > batch:
        raise Refused(f"{job.workers} workers share a batch of {batch} samples; take fewer workers or a larger --batch")
    sources = TrainingSources(spectrum=spectrum, specs=tuple(specs.values()), guides=_guides(job))
    config = task.config(root, job, sources)
    edges, multiple = task.edges_px(config, patch_px), task.crop_multiple(config)
    every, report = _intervals(job)
    return TrainPlan(
        task=job.task,
        config=config,
        sensors=tuple(sorted({scene.sensor for scene in train})),
        spectrum=spectrum,
        guides=sources.guides,
        scenes={keys[s.id]: s.id for s in train},
        train=training_areas(root, [keys[s.id] for s in train], edges),
        held={s.id: validation_crop(root, keys[s.id], s.id, least_px=64, multiple=multiple) for s in held},
        cubes={keys[s.id]: str(s.properties["hypermend:ingest"]) for s in (*train, *held)},
        settings=TrainSettings(
            steps=job.steps,
            minutes=job.minutes,
            batch=batch,
            patch_px=patch_px,
            learning_rate=job.learning_rate or task.learning_rate,
            seed=job.seed,
            check_every=every,
            report_every=report,
            patience=job.patience,
            bf16=job.bf16,
            freeze_norm=job.freeze_norm,
        ),
    )


def _intervals(job: TrainJob) -> tuple[int, int]:
    """Steps between validations, a multiple of those between reports."""
    every = job.check_every or max(1, (job.steps or UNKNOWN_STEPS) // CHECKS)
    report = max(1, every // REPORTS)
    return every // report * report, report


def _scenes(job: TrainJob) -> tuple[list[Scene], list[Scene]]:
    """Choose the scenes to learn from and those to be scored on."""
    if both := sorted(set(job.scenes) & set(job.validation_scenes)):
        raise Refused(
            f"scene(s) {', '.join(both)} are among the training and the validation scenes; validation must be unseen: "
            "take them out of --scene or of --validation-scene"
        )
    sources = hypermend.open(job.archive).sources(
        collections=job.collections, sensor=job.sensor, bbox=job.bbox, datetime=job.datetime
    )
    by_id: dict[str, Scene] = {}
    for scene in sources:
        if (other := by_id.setdefault(scene.id, scene)) is not scene:
            raise Refused(
                f"scene {other.id} has source cubes in {other.collection} and {scene.collection}; choose one by "
                "--collection"
            )
    for name in (*job.scenes, *job.validation_scenes):
        if name not in by_id:
            raise Refused(f"no source cube of scene {name!r} in {job.archive}; there are {len(by_id)} that match")
    chosen = [by_id[name] for name in sorted(by_id) if not job.scenes or name in {*job.scenes, *job.validation_scenes}]
    held = set(job.validation_scenes)
    if not held:
        # Shuffled by a hash, so that neighbours in time or name do not go together.
        mixed = sorted((s.id for s in chosen), key=lambda name: hashlib.sha256(name.encode()).hexdigest())
        held = set(mixed[: max(1, round(HELD_SHARE * len(mixed)))])
    train = [s for s in chosen if s.id not in held]
    if not train:
        raise Refused(
            f"{len(chosen)} source cube(s) match in {job.archive}; a training needs two scenes at least, one of them "
            "for validation: `hypermend ingest` makes more"
        )
    return train, [s for s in chosen if s.id in held]


def _guides(job: TrainJob) -> tuple[str, ...]:
    """Name the sensors of the guide collection."""
    if job.guide_collection is None:
        return ()
    name, archive = scene_collection(job.guide_collection), hypermend.open(job.archive)
    items = archive.search(collections=(name, source_collection(name)))
    if not items:
        raise Refused(f"{job.archive} has no scene of guide collection {name!r}; see `hypermend query`")
    names, tables = sorted({item.scene.sensor for item in items}), archive_tables(archive.root)
    if unknown := [sensor for sensor in names if tables.get(sensor) is None]:
        raise Refused(
            f"sensor {unknown[0]} of guide collection {name!r} has no table, so its responses are not known; catalogue "
            "its scenes with --sensors DIR and --sensor NAME"
        )
    return tuple(names)
