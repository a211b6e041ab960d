"""From what a person asks for to the plan of a training. No Ray, no pixel but the cubes' flags."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import hypermend
from hypermend.catalog.cube.layout import read_spec
from hypermend.catalog.errors import NotFound, Refused
from hypermend.catalog.keys import cube_key, scene_collection, source_collection
from hypermend.catalog.scene import Scene
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.pipeline.config import TrainJob
from hypermend.pipeline.registry import genotypes
from hypermend.pipeline.train import denoise, fuse
from hypermend.pipeline.train.denoise import denoise_edges
from hypermend.pipeline.train.fuse import fuse_edges
from hypermend.pipeline.train.plan import (
    SpectralRange,
    TrainPlan,
    TrainSettings,
    spectral_range,
    training_areas,
    validation_crop,
)
from hypermend.pipeline.train.sharpen import sharpen_edges

HELD_SHARE = 0.1
"""Of the scenes, where no validation scenes are named."""
DEFAULTS: Mapping[str, tuple[int, int, float]] = {
    "denoise": (8, 64, 1.5e-3),
    "sharpen": (4, 32, 2e-3),
    "fuse": (12, 44, 3e-3),
}
"""Batch, patch and learning rate of the shipped weights' recipes."""
CHECKS, REPORTS = 20, 10
"""Validations of a training, and reports of a validation's steps, about."""
UNKNOWN_STEPS = 2000
"""Where only minutes are given, validations come as if there were so many."""


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
    batch, patch_px, rate = DEFAULTS[job.task]
    batch, patch_px = job.batch or batch, job.patch_px or patch_px
    if job.workers is not None and job.workers > batch:
        raise Refused(f"{job.workers} workers share a batch of {batch} samples; take fewer workers or a larger --batch")
    scale = job.scale or 2
    edges = {
        "denoise": denoise_edges(patch_px),
        "sharpen": sharpen_edges(patch_px, scale),
        "fuse": fuse_edges(patch_px),
    }[job.task]
    config = _config(root, job, spectrum)
    multiple = scale if job.task == "sharpen" else fuse.SCALE
    every, report = _intervals(job)
    return TrainPlan(
        task=job.task,
        config=config,
        sensors=tuple(sorted({scene.sensor for scene in train})),
        spectrum=spectrum,
        guides=_guides(job),
        scenes={keys[s.id]: s.id for s in train},
        train=training_areas(root, [keys[s.id] for s in train], edges),
        held={s.id: validation_crop(root, keys[s.id], s.id, least_px=64, multiple=multiple) for s in held},
        cubes={keys[s.id]: str(s.properties["hypermend:ingest"]) for s in (*train, *held)},
        settings=TrainSettings(
            steps=job.steps,
            minutes=job.minutes,
            batch=batch,
            patch_px=patch_px,
            learning_rate=job.learning_rate or rate,
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
    """To learn from, and to be scored on."""
    if both := sorted(set(job.scenes) & set(job.validation_scenes)):
        raise Refused(
            f"scene(s) {', '.join(both)} are among the training and the validation scenes; validation must be unseen: "
            "take them out of --scene or of --validation-scene"
        )
    found = hypermend.open(job.archive).sources(
        collections=job.collections, sensor=job.sensor, bbox=job.bbox, datetime=job.datetime
    )
    by_id: dict[str, Scene] = {}
    for scene in found:
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
        # In an order of its own, so that neighbours in time or name do not go together.
        mixed = sorted((s.id for s in chosen), key=lambda name: hashlib.sha256(name.encode()).hexdigest())
        held = set(mixed[: max(1, round(HELD_SHARE * len(mixed)))])
    train = [s for s in chosen if s.id not in held]
    if not train:
        raise Refused(
            f"{len(chosen)} source cube(s) match in {job.archive}; a training needs two scenes at least, one of them "
            "for validation: `hypermend ingest` makes more"
        )
    return train, [s for s in chosen if s.id in held]


def _config(root: ArchiveStore, job: TrainJob, spectrum: SpectralRange) -> dict[str, Any]:
    """Of the network."""
    if job.task == "sharpen":
        return {
            "scale": job.scale or 2,
            "filters": job.filters or 16,
            "modules": job.modules or 1,
            "separable": True,
            "residual": True,
        }
    if job.task == "fuse":
        return dict(fuse.CONFIG)
    if job.genotype is None:
        return dict(denoise.CONFIG)
    try:
        found = genotypes.read(root, job.genotype)
    except NotFound:
        there = ", ".join(g.id for g in genotypes.stored_genotypes(root) if isinstance(g, genotypes.StoredGenotype))
        raise Refused(
            f"no genotype {job.genotype!r} in {root.url}; there are: {there or 'none, `hypermend search` finds them'}"
        ) from None
    config = {**denoise.CONFIG, "genotype": found.genotype.to_dict()}
    if found.figures["domain"] == "subspace":
        return config
    fewest, most = spectrum.bands
    if fewest != most:
        raise Refused(
            f"genotype {found.id} works on bands, and the training scenes have from {fewest} to {most}; name scenes of "
            "one kind by --scene, or take a genotype of the subspace"
        )
    return {**config, "domain": "bands", "channels": most}


def _guides(job: TrainJob) -> tuple[str, ...]:
    if job.guide_collection is None:
        return ()
    name, archive = scene_collection(job.guide_collection), hypermend.open(job.archive)
    found = archive.search(collections=(name, source_collection(name)))
    if not found:
        raise Refused(f"{job.archive} has no scene of guide collection {name!r}; see `hypermend query`")
    return tuple(sorted({item.scene.sensor for item in found}))
