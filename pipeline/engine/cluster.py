"""The cluster: joining or starting one, and what to ask of its machines."""

from __future__ import annotations

import logging
import math
import socket
import time
from dataclasses import dataclass
from typing import Any

import ray

from hypermend.pipeline.engine.outcome import NoWorkers, Workers

log = logging.getLogger(__name__)
KNOCK_S = 10.0


def start_ray(*, cpus: int | None = None, address: str | None = None) -> None:
    """Join the cluster at ``address``, or start an embedded one; nothing to do where Ray already runs.

    Raises:
        NoWorkers: no cluster answers there, it does not let us in, or Ray does not start on this machine.
    """
    if ray.is_initialized():
        return
    # "local": without an address Ray would join whatever cluster was last started on this machine.
    where: dict[str, Any] = {"address": "local", "num_cpus": cpus, "include_dashboard": False}
    if address is not None:
        _check_head_reachable(address)
        where = {"address": address}
    try:
        ray.init(**where, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # Ray has no class of its own for parts that do not start in time
        what = "Ray does not start on this machine" if address is None else f"the cluster at {address} cannot be joined"
        raise NoWorkers(f"{what}: {first_line(error)}") from error


def _check_head_reachable(address: str) -> None:
    """Whether anybody listens there: Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return  # "auto": Ray looks for a cluster of this machine
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_S).close()
    except OSError as error:
        raise NoWorkers(
            f"no Ray cluster answers at {address}: {error.strerror or error}; `ray status` on its head tells whether "
            "it is up, `ray start --head` prints its address"
        ) from error


@dataclass(frozen=True, kw_only=True)
class ActorResources:
    """What each actor asks of a machine, and how many there may be."""

    count: int
    cpus: int
    gpus: float
    memory_bytes: int | None
    lane: str | None


def actor_resources(workers: Workers, nodes: list[dict[str, float]]) -> ActorResources:
    """What to ask of a cluster whose living machines have these resources.

    Raises:
        NoWorkers: no machine has what one actor needs; with both numbers.
    """
    gpu = max((node.get("GPU", 0.0) for node in nodes), default=0.0)
    gpus = min(1.0, gpu) if workers.gpus is None else workers.gpus
    lane = None if workers.lane is None else f"lane_{workers.lane}"
    if lane is not None and not any(name.startswith("lane_") for node in nodes for name in node):
        lane = None  # machines without lanes, such as one's own
    needs = {"GPU": gpus, "CPU": 1.0, "memory": float(workers.memory_bytes or 0)} | ({lane: 1.0} if lane else {})
    fit = [node for node in nodes if all(node.get(name, 0.0) >= amount for name, amount in needs.items())]
    if not fit:
        most = {name: max((node.get(name, 0.0) for node in nodes), default=0.0) for name in needs}
        raise NoWorkers(f"no machine of the cluster has what one worker needs: {needs}; the most is {most}")
    room = sum(min(int(node.get(name, 0.0) / amount) for name, amount in needs.items() if amount) for node in fit)
    if workers.count is not None:
        # Though there be room for fewer: a cluster that grows by itself does so when it is asked for more than it has.
        room = workers.count
    if workers.max_gpus is not None and gpus:
        room = min(room, int(workers.max_gpus / gpus))
    on_one = max(1, math.ceil(room / len(fit)))
    cpus = max(1, int(min(node["CPU"] for node in fit) / on_one))
    return ActorResources(count=max(1, room), cpus=cpus, gpus=gpus, memory_bytes=workers.memory_bytes, lane=lane)


def first_ask(workers: Workers) -> ActorResources:
    """What to ask of the machines there are; where none has it, a first one is waited for.

    What waits asks for it, so that a cluster that grows by itself sees what is wanted.

    Raises:
        NoWorkers: none came in time.
    """
    end = time.monotonic() + workers.join_s
    place: Any = None
    try:
        while True:
            try:
                return actor_resources(workers, list(living().values()))
            except NoWorkers as error:
                if time.monotonic() >= end:
                    raise
                if place is None:
                    log.warning("%s; waiting up to %.0f minutes for one to join", error, workers.join_s / 60)
                    place = _place_for(workers)
            time.sleep(1.0)
    finally:
        if place is not None:
            ray.kill(place)


def _place_for(workers: Workers) -> Any:
    """An actor that takes what one worker needs, as soon as there is a machine for it."""
    lane = {} if workers.lane is None else {f"lane_{workers.lane}": 1.0}
    place: Any = ray.remote(_Place).options(
        num_cpus=1, num_gpus=workers.gpus or 0, memory=workers.memory_bytes, resources=lane
    )
    return place.remote()


class _Place:
    """Works at nothing."""


def living() -> dict[str, dict[str, float]]:
    """Resources of every living machine, by its id."""
    return {n["NodeID"]: n["Resources"] for n in ray.nodes() if n["Alive"]}  # type: ignore[no-untyped-call]


def first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
