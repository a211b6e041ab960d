"""Training samples that depend only on (seed, step, place in the batch), not on the worker nor on the starting step.

A batch has one slot for each sample. A realisation is the expensive part of a sample: a part of a scene, degraded, its
subspace estimated. Each slot makes a new realisation every `every` steps, at steps of its own, and cuts its samples
from its `keep` newest ones. A worker makes the realisations of its own slots only, so work is shared and memory is
bounded. Sample (step, slot) is the same on one worker and on many, and after a restart.
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
"""Draws of a realisation before the scenes count as unusable."""


class SampleStream(Generic[R]):
    """Endless stream of samples; `batch` returns those of a step."""

    def __init__(
        self,
        make_realisation: Callable[[np.random.Generator], R | None],
        cut_patch: Callable[[R, np.random.Generator], Batch],
        *,
        seed: int,
        batch: int,
        every: int,
        keep: int,
    ) -> None:
        """
        Args:
            make_realisation: returns None if this draw is unusable.
            cut_patch: returns one sample (input, target) of a realisation.
            seed: seed of all randomness.
            batch: samples in a batch, over all workers.
            every: steps between two realisations of a slot.
            keep: realisations that a slot cuts samples from.
        """
        self._make_realisation, self._cut_patch = make_realisation, cut_patch
        self._seed, self._batch, self._every, self._keep = seed, batch, every, keep
        self._made: dict[tuple[int, int], R] = {}

    def batch(self, step: int, slots: Iterable[int]) -> Batch:
        """Return the samples of some slots at a step, stacked."""
        drawn = [self.sample(step, slot) for slot in slots]
        return torch.stack([x for x, _ in drawn]), torch.stack([target for _, target in drawn])

    def batches(self) -> Iterator[Batch]:
        """Yield the whole batch of every step, without end."""
        return (self.batch(step, range(self._batch)) for step in count())

    def sample(self, step: int, slot: int) -> Batch:
        """Return sample `slot` of the batch at `step`."""
        number, rng = self._drawn(step, slot)
        return self._cut_patch(self._realisation(slot, number), rng)

    def sources(self, step: int) -> Iterator[np.random.Generator]:
        """Yield, for each sample of a batch, a generator in the state in which its realisation was made."""
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
                made = self._make_realisation(self._generator(slot, number, _MAKE, attempt))
                if made is not None:
                    break
            else:
                raise ValueError(f"{ATTEMPTS} draws of the scenes gave no training sample: are they constant?")
            self._made = {k: r for k, r in self._made.items() if k[0] != slot or k[1] > number - self._keep}
            self._made[slot, number] = made
        return self._made[slot, number]


def prefetch(make: Callable[[int], Batch], first: int) -> Generator[Batch]:
    """Yield make(first), make(first + 1), ...; a thread makes the next batch while the last one is in use."""
    with ThreadPoolExecutor(1, "samples") as pool:
        coming = pool.submit(make, first)
        for step in count(first + 1):
            batch = coming.result()
            coming = pool.submit(make, step)
            yield batch
