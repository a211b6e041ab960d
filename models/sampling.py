"""Training samples that depend on (seed, number, place in the batch) alone, whoever draws them and wherever it begins.

A batch has as many slots as samples. What is dear (a part of a scene, made noisy or blurred, its subspace estimated) is
a realisation; each slot gets a new one every `every` steps, each slot at steps of its own, and cuts its samples from
the `keep` newest. A worker that has some of the slots makes the realisations of these alone, so the work is shared and
the memory bounded; sample (step, slot) is the same on one worker and on many, and after a restart.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Generic, TypeVar

import numpy as np
import torch

from hypermend.models.fit import Batch

R = TypeVar("R")
_MAKE, _CUT = 0, 1
ATTEMPTS = 50
"""Of a realisation, before the scenes are said to have none."""


class SampleStream(Generic[R]):
    """Endless samples."""

    def __init__(
        self,
        make: Callable[[np.random.Generator], R | None],
        cut: Callable[[R, np.random.Generator], Batch],
        *,
        seed: int,
        batch: int,
        every: int,
        keep: int,
    ) -> None:
        """
        Args:
            make: a realisation, or None where this draw has none.
            cut: one sample (input, target) of a realisation.
            seed: of everything.
            batch: samples of a whole batch, over all workers.
            every: steps between new realisations of a slot.
            keep: realisations that a slot cuts from.
        """
        self._make, self._cut = make, cut
        self._seed, self._batch, self._every, self._keep = seed, batch, every, keep
        self._made: dict[tuple[int, int], R] = {}

    def batch(self, step: int, slots: Iterable[int]) -> Batch:
        """The samples of some slots at a step, stacked."""
        drawn = [self.sample(step, slot) for slot in slots]
        return torch.stack([x for x, _ in drawn]), torch.stack([target for _, target in drawn])

    def sample(self, step: int, slot: int) -> Batch:
        """Sample `slot` of the batch at `step`."""
        number, rng = self._drawn(step, slot)
        return self._cut(self._realisation(slot, number), rng)

    def sources(self, step: int) -> Iterator[np.random.Generator]:
        """For each sample of a batch, the generator that its realisation was made with, as it was then."""
        for slot in range(self._batch):
            number, _ = self._drawn(step, slot)
            yield self._generator(slot, number, _MAKE, 0)

    def _drawn(self, step: int, slot: int) -> tuple[int, np.random.Generator]:
        rng = self._generator(slot, step, _CUT, 0)
        newest = (step + slot * self._every // self._batch) // self._every
        return newest - int(rng.integers(min(self._keep, newest + 1))), rng

    def _generator(self, slot: int, number: int, use: int, attempt: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, number, slot, use, attempt])

    def _realisation(self, slot: int, number: int) -> R:
        if (slot, number) not in self._made:
            for attempt in range(ATTEMPTS):
                made = self._make(self._generator(slot, number, _MAKE, attempt))
                if made is not None:
                    break
            else:
                raise ValueError(f"{ATTEMPTS} draws of the scenes gave no training sample: are they constant?")
            self._made = {k: r for k, r in self._made.items() if k[0] != slot or k[1] > number - self._keep}
            self._made[slot, number] = made
        return self._made[slot, number]


def prefetch(make: Callable[[int], Batch], first: int) -> Generator[Batch]:
    """make(first), make(first + 1), ..., each made in a thread while the one before is used: two are held at most."""
    with ThreadPoolExecutor(1, "samples") as pool:
        coming = pool.submit(make, first)
        for step in count(first + 1):
            batch = coming.result()
            coming = pool.submit(make, step)
            yield batch
