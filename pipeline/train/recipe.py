"""Train as the shipped weights were: `python -m hypermend.pipeline.train.recipe TASK --data DIR --out DIR`.

DIR holds `cave/<scene>_ms/*.png` and, for denoise, `aviris/*.mat` and `muufl/*.mat` if they are there. Writes card.json
and weights.safetensors to --out at every check and at the end, so a run that is stopped leaves its last check.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from hypermend.catalog.scene import Scene
from hypermend.models import checkpoint
from hypermend.models.arrays import F32
from hypermend.models.card import ModelCard
from hypermend.models.fit import FitSettings, fit
from hypermend.pipeline.train.task import LabScene, Recipe, Task
from hypermend.pipeline.train.task_table import TASKS

VALIDATION = ("fake_and_real_peppers_ms", "paints_ms", "thread_spools_ms")
CHECK_EVERY_S = 300.0


def read(folder: Path, sensor: str, peak: float | None) -> Iterator[LabScene]:
    """Read each scene that can be read, divided by `peak` or its largest value; the others are named."""
    # These load every reader of files; a worker of `hypermend train` reads cubes only.
    from hypermend.catalog.readers.scene_reader import open_scene
    from hypermend.catalog.stac.discover import from_folder

    for scene in from_folder(folder, sensor=sensor, collection="training"):
        if not isinstance(scene, Scene):
            print(f"skipped {scene.id}: {scene.reason}", file=sys.stderr)
            continue
        source = open_scene(scene)
        _, h, w = source.spec.shape
        values, _ = source.read(slice(0, h), slice(0, w))
        values = values[np.array(source.spec.good)]
        source.close()
        cube: F32 = (values / peak if peak else values.astype(np.float32) / np.float32(values.max())).astype(np.float32)
        yield LabScene(name=scene.id, sensor=sensor, cube=cube)


def recipe_of(task: Task[Any]) -> Recipe[Any]:
    """The recipe of a task of `TASKS`, which all have one."""
    assert task.recipe is not None
    return task.recipe


def read_all(data: Path, task: Task[Any]) -> list[LabScene]:
    """Read the scenes of CAVE, and of the other folders of the recipe that are there."""
    scenes = list(read(data / "cave", "cave", recipe_of(task).peak))
    for folder, sensor in recipe_of(task).others.items():
        if (data / folder).is_dir():
            scenes += read(data / folder, sensor, recipe_of(task).peak)
    return scenes


def begin_with(net: torch.nn.Module, folder: Path) -> dict[str, Any]:
    """Load the weights of a model of the same config; returns what the recipe says of them."""
    net.load_state_dict({k: v.float() for k, v in load_file(folder / checkpoint.WEIGHTS).items()})
    return {"after": ModelCard.read(folder / checkpoint.CARD).recipe}


def train(task: Task[Any], options: argparse.Namespace, command: str) -> None:
    """Train, and write the model at every check. Held-out scenes are only scored."""
    recipe = recipe_of(task)
    config = recipe.config(options)
    scenes = read_all(options.data, task)
    held_out = {s.name: recipe.crop(s.cube, config) for s in scenes if s.name in options.held_out}
    training = [s for s in scenes if s.name not in held_out]
    torch.manual_seed(options.seed)
    net = task.network(config)
    before = begin_with(net, options.begin) if options.begin else {}
    settings = FitSettings(
        minutes=options.minutes,
        steps=options.steps,
        learning_rate=options.learning_rate,
        warmup_steps=20,
        ema_decay=task.ema_decay,
        bf16=options.bf16,
    )
    next_check = CHECK_EVERY_S
    for p in fit(net, recipe.stream(training, config, options.seed).batches(), recipe.loss, settings):
        print(json.dumps({"step": p.step, "seconds": round(p.seconds), "loss": round(p.loss, 5)}), flush=True)
        if p.seconds < next_check and p.fraction < 1:
            continue
        next_check = p.seconds + CHECK_EVERY_S
        state = p.ema.state_dict()
        made = {"command": command, "seconds": round(p.seconds), "steps": p.step, "seed": options.seed, **before}
        draft = ModelCard(
            name=recipe.name or options.out.name,
            config=config,
            trained_on=tuple(s.name for s in training),
            code_version=importlib.metadata.version("hypermend"),
            recipe=made,
            **task.card(config, net),
        )
        metrics = recipe.validate(task.model(draft, state), held_out, p.fraction >= 1)
        print(json.dumps(metrics), flush=True)
        card = {**draft.to_dict(), "metrics": {**metrics, "protocol": recipe.protocol}}
        checkpoint.save(options.out, ModelCard.from_dict(card), state)


def parser() -> argparse.ArgumentParser:
    """Options of every task; their defaults follow from it."""
    ap = argparse.ArgumentParser(prog="python -m hypermend.pipeline.train.recipe", description="Train a model.")
    ap.add_argument("task", choices=list(TASKS))
    ap.add_argument("--data", type=Path, required=True, help="folder with cave/; for denoise aviris/ and muufl/, too")
    ap.add_argument("--out", type=Path, required=True, help="folder for card.json and weights.safetensors")
    ap.add_argument("--minutes", type=float, help="default: the task's")
    ap.add_argument("--steps", type=int, help="end after so many steps, if that comes first")
    ap.add_argument("--learning-rate", type=float, help="default: the task's")
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--bf16", action="store_true", help="for a CPU that has bfloat16 in hardware: twice as fast")
    ap.add_argument("--begin", type=Path, help="folder of a model of the same config to begin with")
    ap.add_argument("--held-out", nargs="*", default=list(VALIDATION), help="scenes to score, not to train on")
    ap.add_argument("--scale", type=int, default=2, help="sharpen: coarse pixel over fine pixel")
    ap.add_argument("--filters", type=int, default=16, help="sharpen: the paper has 64")
    ap.add_argument("--modules", type=int, default=1, help="sharpen: the paper has 3")
    ap.add_argument("--plain", action="store_true", help="sharpen: the network's output is the image, as in the paper")
    return ap


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point."""
    ap = parser()
    options = ap.parse_args(argv)
    task = TASKS[options.task]
    options.minutes = options.minutes or recipe_of(task).minutes
    options.learning_rate = options.learning_rate or task.learning_rate
    if options.bf16 and not task.bf16_safe(recipe_of(task).config(options), "cpu"):
        ap.error(f"--bf16: {task.name} does not train in bfloat16; leave it out")
    train(task, options, command_of(options))


def command_of(options: argparse.Namespace) -> str:
    """Name the command for the card, without the user's folders."""
    named: Mapping[str, Any] = {k: v for k, v in vars(options).items() if k not in ("task", "data", "out", "begin")}
    default = vars(parser().parse_args([options.task, "--data", "DIR", "--out", "DIR"]))
    words = [f"python -m hypermend.pipeline.train.recipe {options.task} --data DIR --out DIR"]
    for key, value in named.items():
        if value != default[key]:
            option = f"--{key.replace('_', '-')}"
            words.append(option if value is True else f"{option} {' '.join(value) if key == 'held_out' else value}")
    return " ".join(words)


if __name__ == "__main__":
    main()
