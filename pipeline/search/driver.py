"""`hypermend search`: for each sensor a genotype, found by trials on Ray Tune, or the nearest one that is known.

Tune places and watches the trials. What is done is decided by the archive's own records (`search_trial.py`): a driver
that starts again runs what has not ended, from its last epoch. The rungs of successive halving are read from the
records as well, since Tune's restore does not keep its schedulers' (docs/decisions/0007-search-on-tune.md).
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import optuna
import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

import hypermend
from hypermend.catalog.archive import Archive
from hypermend.catalog.cube.layout import read_spec
from hypermend.catalog.errors import Refused
from hypermend.catalog.keys import cube_key
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.catalog.storage.cube_leases import reading
from hypermend.models.denoise.stas import Genotype
from hypermend.pipeline.config import SearchJob
from hypermend.pipeline.engine.cluster import start_ray
from hypermend.pipeline.formatting import duration
from hypermend.pipeline.registry.genotypes import FOLDER, BadGenotype, StoredGenotype, nearest, put, stored_genotypes
from hypermend.pipeline.registry.spectrum import NEAR_DISTANCE, Spectrum
from hypermend.pipeline.search.cell_picture import draw_cell
from hypermend.pipeline.search.plan import BUDGETS, SearchPlan, cube_spectrum, make_plan
from hypermend.pipeline.search.trial import (
    ENDED,
    TrialRecord,
    end,
    first_record,
    put_record,
    read_record,
    run_trial,
    sweep_ended,
)

MAX_DEATHS = 3
"""Deaths of a trial's process before the trial is given up."""
LINES = 8
"""About how often a trial says how far it is."""
HALVE = 2
"""The better 1 / HALVE of the trials at a rung go on."""
Say = Callable[[str], None]


def search_archive(job: SearchJob, say: Say) -> list[Answer]:
    """Find a genotype for every sensor of the job; all their trials share the cluster.

    Raises:
        BadSensor: an unknown sensor.
        Refused: no source cubes of one, or too few usable areas in them. Nothing was started.
    """
    archive = hypermend.open(job.archive)
    root, budget = archive.root, BUDGETS[job.budget]
    answers: dict[str, Answer] = {}
    plans: list[SearchPlan] = []
    candidates = [] if job.anew else list(_candidates(root, job, say))
    for name in dict.fromkeys(job.sensors):
        cubes = _cubes(archive, job, name)
        reused = _reuse(candidates, name, cube_spectrum(read_spec(root, next(iter(cubes)))))
        if reused is not None:
            answers[name] = reused
            continue
        plans.append(
            make_plan(
                root,
                cubes,
                sensor=name,
                strategy=job.strategy,
                domain=job.domain,
                budget_name=job.budget,
                budget=budget,
                trials=job.trials,
            )
        )
    for plan in plans:
        root.put_json(plan.key, plan.to_dict())
        say(f"{plan.sensor}: search {plan.id}, {plan.trials} trials on {plan.spectrum}")
    run_plans(root, plans, workers=job.workers, address=job.ray_address, say=say)
    answers |= {plan.sensor: _settle(root, plan) for plan in plans}
    return [answers[name] for name in dict.fromkeys(job.sensors)]


def _cubes(archive: Archive, job: SearchJob, sensor: str) -> dict[str, str]:
    """Key -> ingest id of the sensor's source cubes, in order of the scenes' ids."""
    found = archive.sources(
        collections=job.collections, sensor=sensor, bbox=job.bbox, datetime=job.datetime, ids=job.scenes or None
    )
    if not found:
        raise Refused(f"no source cube of sensor {sensor!r} in {archive.root.url}; `hypermend ingest` makes them")
    scenes = sorted(found, key=lambda scene: scene.id)
    return {cube_key(scene): str(scene.properties["hypermend:ingest"]) for scene in scenes}


def _candidates(root: ArchiveStore, job: SearchJob, say: Say) -> Iterator[StoredGenotype]:
    """Genotypes that may answer the job: found in the same domain, with no less work than is asked for."""
    budget = BUDGETS[job.budget]
    for found in stored_genotypes(root):
        if isinstance(found, BadGenotype):
            say(f"not considered: {found}")
        elif found.figures["domain"] == job.domain and found.figures["steps"] >= budget.epochs * budget.steps:
            yield found


def _reuse(candidates: Sequence[StoredGenotype], sensor: str, spectrum: Spectrum) -> Answer | None:
    """The nearest known genotype, if it is near enough."""
    best = nearest(candidates, spectrum)
    if best is None or best[1] > NEAR_DISTANCE:
        return None
    found, distance = best
    why = (
        f"genotype {found.id} was found on {found.spectrum}, at a distance of {distance:.3f} from {spectrum} "
        f"(near: up to {NEAR_DISTANCE}); --anew searches all the same"
    )
    return Answer(sensor=sensor, found=found, reused=True, why=why)


def _settle(root: ArchiveStore, plan: SearchPlan) -> Answer:
    """The best trial's genotype with its picture, kept in the archive."""
    records = tuple(r for n in range(plan.trials) if (r := read_record(root, plan.id, n)))
    for record in records:
        sweep_ended(root, plan.id, record)
    finished = [r for r in records if r.state == "finished"]
    if not finished:
        reasons = "; ".join(f"trial {r.number} {r.state}: {r.reason}" for r in records)
        return Answer(
            sensor=plan.sensor,
            found=None,
            reused=False,
            why=f"no trial finished: {reasons}",
            search=plan.id,
            trials=records,
        )
    best = min(finished, key=lambda r: (r.validation_loss, r.number))
    assert best.genotype is not None
    genotype = Genotype.from_dict(best.genotype)
    picture = f"{FOLDER}/{plan.id}.png"
    root.put_if_changed(picture, draw_cell(genotype, title=f"{plan.id}: {plan.spectrum}"))
    found = StoredGenotype(
        id=plan.id,
        genotype=genotype,
        sensor=plan.sensor,
        spectrum=plan.spectrum,
        search=plan.id,
        picture=picture,
        figures={
            "strategy": plan.strategy,
            "domain": plan.domain,
            "budget": plan.budget_name,
            "steps": plan.budget.epochs * plan.budget.steps,
            "trial": best.number,
            "alpha_rate": best.settings["alpha_rate"],
            "validation_loss": best.validation_loss,
            "baseline_loss": best.history[-1]["baseline_loss"],
            "seconds": round(sum(float(r.history[-1]["seconds"]) for r in records if r.history), 1),
            "trials": {
                state: n for state in ("finished", "stopped", "diverged", "failed") if (n := _count(records, state))
            },
        },
    )
    put(root, found)
    why = f"trial {best.number} of {len(records)} has the lowest validation loss, {best.validation_loss:.4g}"
    return Answer(sensor=plan.sensor, found=found, reused=False, why=why, search=plan.id, trials=records)


def _count(records: Iterable[TrialRecord], state: str) -> int:
    return sum(r.state == state for r in records)


def run_plans(
    root: ArchiveStore, plans: Sequence[SearchPlan], *, workers: int | None, address: str | None, say: Say
) -> None:
    """Run every trial that has not ended; its record says how it did."""
    todo = _Todo(root, plans)
    if not todo.count:
        return
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"  # the archive's records are the log
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # the new output's verbose=0 still prints
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # an interrupt ends the command, as in every other verb
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"
    start_ray(address=address)
    cluster: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    cpus = todo.threads = max(1, int(cluster.get("CPU", 1.0) / min(todo.count, workers or todo.count)))
    gpus = min(1.0, cluster.get("GPU", 0.0))
    halving = _Halving(root, plans, say)
    with tempfile.TemporaryDirectory(prefix="hypermend-search-") as scratch:
        tuner = tune.Tuner(
            tune.with_resources(_trainable, {"cpu": cpus, "gpu": gpus}),
            tune_config=tune.TuneConfig(
                metric="validation_loss",
                mode="min",
                num_samples=todo.count,
                search_alg=todo,
                scheduler=halving,
                max_concurrent_trials=workers,
            ),
            run_config=tune.RunConfig(
                name="search",
                storage_path=scratch,
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=MAX_DEATHS - 1),
            ),
        )
        with reading(root, {cube for plan in plans for cube in plan.cubes}, what="a search"):
            results = tuner.fit()
        ended = [results[i] for i in range(len(results))]
        errors = {r.config["key"]: str(r.error) for r in ended if r.config and r.error}
    for plan in plans:
        for record in (r for n in range(plan.trials) if (r := read_record(root, plan.id, n))):
            if record.state not in ENDED:
                said = errors.get(f"{plan.id}/{record.number}", "").strip().splitlines()
                reason = said[-1] if said else "its process exited without an error message"
                put_record(root, plan.id, replace(record, state="failed", reason=reason))
                say(f"{plan.sensor}: trial {record.number} failed: {reason}")


def _trainable(config: Mapping[str, Any]) -> None:
    """The function that Tune runs in a worker."""
    import torch

    root = ArchiveStore(config["archive"])
    plan = SearchPlan.from_dict(root.get_json(config["plan"]))
    record = read_record(root, plan.id, config["number"])
    assert record is not None
    torch.set_num_threads(config["threads"])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for now in run_trial(root, plan, record, device=device):
        line = dict(now.history[-1]) if now.history else {"epoch": 0, "validation_loss": float("inf")}
        tune.report({**line, "state": now.state, "reason": now.reason})


class _Todo(Searcher):
    """The trials that have not ended, sensors in turn; settings beyond the first seeds are Optuna's."""

    def __init__(self, root: ArchiveStore, plans: Sequence[SearchPlan]) -> None:
        super().__init__(metric="validation_loss", mode="min")
        self._root = root
        self._queue: deque[tuple[SearchPlan, int]] = deque()
        for number in range(max((p.trials for p in plans), default=0)):
            for plan in (p for p in plans if number < p.trials):
                record = read_record(root, plan.id, number)
                if record is None or record.state not in ENDED:
                    self._queue.append((plan, number))
        self.count = len(self._queue)
        self.threads = 1

    def suggest(self, trial_id: str) -> Any:
        """The next trial's config; its record is in the archive before it begins."""
        if not self._queue:
            return Searcher.FINISHED
        plan, number = self._queue.popleft()
        if read_record(self._root, plan.id, number) is None:
            put_record(self._root, plan.id, self._drawn(plan, number))
        return {
            "archive": self._root.url,
            "plan": plan.key,
            "number": number,
            "key": f"{plan.id}/{number}",
            "threads": self.threads,
        }

    def _drawn(self, plan: SearchPlan, number: int) -> TrialRecord:
        record = first_record(plan, number)
        if number < plan.budget.seeds:
            return record
        ended = [r for n in range(number) if (r := read_record(self._root, plan.id, n)) and r.state == "finished"]
        return replace(record, settings=sampled_settings(record.settings, ended, seed=number))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: the records say it."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the records are enough."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the records are enough."""


def sampled_settings(default: Mapping[str, float], ended: Sequence[TrialRecord], *, seed: int) -> dict[str, float]:
    """Settings by Optuna's TPE, a third to three times the default, given how the ended trials did."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space: dict[str, optuna.distributions.BaseDistribution] = {
        name: optuna.distributions.FloatDistribution(value / 3, value * 3, log=True) for name, value in default.items()
    }
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=4))
    for r in ended:
        params = dict(r.settings)
        study.add_trial(optuna.create_trial(params=params, distributions=space, value=r.validation_loss))
    return {name: float(value) for name, value in study.ask(space).params.items()}


def rungs(epochs: int) -> tuple[int, ...]:
    """Epochs at which trials are compared: a quarter and a half of all; none where there are fewer than four."""
    return tuple(sorted({epochs // 4, epochs // 2} - {0})) if epochs >= 4 else ()


def goes_on(value: float, others: Iterable[float]) -> bool:
    """Asynchronous successive halving (Li et al., MLSys 2020): in the better half of what came to this rung so far."""
    seen = sorted([value, *others])
    return value <= seen[max(1, len(seen) // HALVE) - 1]


class _Halving(FIFOScheduler):
    """Stops the worse trials of each search at its rungs. Its memory is the archive's records."""

    _supports_buffered_results = False

    def __init__(self, root: ArchiveStore, plans: Sequence[SearchPlan], say: Say) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._root, self._say = root, say
        self._plans = {plan.key: plan for plan in plans}

    def __getstate__(self) -> dict[str, Any]:
        """Without the console: Tune pickles its arguments, for a restore that nobody asks for."""
        return {**self.__dict__, "_say": None}

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Called by Tune after each epoch of a trial, while the trial waits."""
        plan = self._plans[trial.config["plan"]]
        number, epoch = trial.config["number"], int(result["epoch"])
        if result["state"] != "running":
            reason = (
                f": {result['reason']}" if result["reason"] else f", validation loss {result['validation_loss']:.4g}"
            )
            self._say(f"{plan.sensor}: trial {number} {result['state']}{reason}")
            return TrialScheduler.CONTINUE
        if epoch % max(1, plan.budget.epochs // LINES) == 0:
            left = duration(float(result["seconds"]) / epoch * (plan.budget.epochs - epoch))
            self._say(f"{plan.sensor}: trial {number}, epoch {epoch} of {plan.budget.epochs}, {left} left")
        if epoch not in rungs(plan.budget.epochs):
            return TrialScheduler.CONTINUE
        records = [r for n in range(plan.trials) if n != number and (r := read_record(self._root, plan.id, n))]
        others = [value for r in records if (value := r.at(epoch)) is not None]
        value = float(result["validation_loss"])
        if goes_on(value, others):
            return TrialScheduler.CONTINUE
        reason = f"validation loss {value:.4g} after epoch {epoch}; the better half of {len(others) + 1} go on"
        record = read_record(self._root, plan.id, number)
        assert record is not None
        end(self._root, plan.id, record, state="stopped", reason=reason)
        self._say(f"{plan.sensor}: trial {number} stopped: {reason}")
        return TrialScheduler.STOP


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The result for one sensor."""

    sensor: str
    found: StoredGenotype | None
    reused: bool
    why: str
    search: str = ""
    """Id of the search; empty where a genotype that was known answers."""
    trials: tuple[TrialRecord, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        return {
            "sensor": self.sensor,
            "genotype": self.found.to_dict() if self.found else None,
            "reused": self.reused,
            "why": self.why,
            "trials": [{k: v for k, v in asdict(t).items() if k != "weights"} for t in self.trials],
        }
