"""The cluster: join or start one, and work out the actors that its machines have room for."""

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
CONNECT_TIMEOUT_S = 10.0


def start_ray(*, cpus: int | None = None, address: str | None = None) -> None:
    """Join the cluster at ``address``, or start an embedded one; do nothing where Ray already runs.

    Raises:
        NoWorkers: no cluster answers there, it refuses us, or Ray does not start on this machine.
    """
    if ray.is_initialized():
        return
    # "local": without an address Ray would join whatever cluster was last started on this machine.
    options: dict[str, Any] = {"address": "local", "num_cpus": cpus, "include_dashboard": False}
    if address is not None:
        _check_head_reachable(address)
        options = {"address": address}
    try:
        ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # Ray has no class of its own for parts that do not start in time
        problem = (
            "Ray does not start on this machine" if address is None else f"the cluster at {address} cannot be joined"
        )
        raise NoWorkers(f"{problem}: {first_line(error)}") from error


def _check_head_reachable(address: str) -> None:
    """Raise at once where nobody listens at the address: Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return  # "auto": Ray looks for a cluster of this machine
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise NoWorkers(
            f"no Ray cluster answers at {address}: {error.strerror or error}; `ray status` on its head tells whether "
            "it is up, `ray start --head` prints its address"
        ) from error


@dataclass(frozen=True, kw_only=True)
class ActorResources:
    """Resources that each actor requests of a machine, and the number of actors."""

    count: int
    cpus: int
    gpus: float
    memory_bytes: int | None
    lane: str | None


def actor_resources(workers: Workers, nodes: list[dict[str, float]]) -> ActorResources:
    """Work out the actors for a cluster whose machines have these resources.

    Raises:
        NoWorkers: no machine has what one actor needs; the message names both numbers.
    """
    gpu = max((node.get("GPU", 0.0) for node in nodes), default=0.0)
    gpus = min(1.0, gpu) if workers.gpus is None else workers.gpus
    lane = None if workers.lane is None else f"lane_{workers.lane}"
    if lane is not None and not any(name.startswith("lane_") for node in nodes for name in node):
        lane = None  # machines without lanes, such as the user's own
    needs = {"GPU": gpus, "CPU": 1.0, "memory": float(workers.memory_bytes or 0)} | ({lane: 1.0} if lane else {})
    fit = [node for node in nodes if all(node.get(name, 0.0) >= amount for name, amount in needs.items())]
    if not fit:
        most = {name: max((node.get(name, 0.0) for node in nodes), default=0.0) for name in needs}
        raise NoWorkers(f"no machine of the cluster has what one worker needs: {needs}; the most is {most}")
    room = sum(min(int(node.get(name, 0.0) / amount) for name, amount in needs.items() if amount) for node in fit)
    if workers.count is not None:
        # Even where there is room for fewer: an autoscaling cluster grows when more is requested than it has.
        room = workers.count
    if workers.max_gpus is not None and gpus:
        room = min(room, int(workers.max_gpus / gpus))
    per_machine = max(1, math.ceil(room / len(fit)))
    cpus = max(1, int(min(node["CPU"] for node in fit) / per_machine))
    return ActorResources(count=max(1, room), cpus=cpus, gpus=gpus, memory_bytes=workers.memory_bytes, lane=lane)


def wait_for_resources(workers: Workers) -> ActorResources:
    """Work out the actors for the machines there are; where none is large enough, wait for one to join.

    A pending placeholder actor tells an autoscaling cluster what is needed.

    Raises:
        NoWorkers: no such machine joined in time.
    """
    end = time.monotonic() + workers.join_s
    placeholder: Any = None
    try:
        while True:
            try:
                return actor_resources(workers, list(alive_nodes().values()))
            except NoWorkers as error:
                if time.monotonic() >= end:
                    raise
                if placeholder is None:
                    log.warning("%s; waiting up to %.0f minutes for one to join", error, workers.join_s / 60)
                    placeholder = _placeholder(workers)
            time.sleep(1.0)
    finally:
        if placeholder is not None:
            ray.kill(placeholder)


def _placeholder(workers: Workers) -> Any:
    """Start an actor that requests what one worker needs."""
    lane = {} if workers.lane is None else {f"lane_{workers.lane}": 1.0}
    actor_class: Any = ray.remote(_Placeholder).options(
        num_cpus=1, num_gpus=workers.gpus or 0, memory=workers.memory_bytes, resources=lane
    )
    return actor_class.remote()


class _Placeholder:
    """An actor that only occupies its resources."""


def alive_nodes() -> dict[str, dict[str, float]]:
    """Return the resources of every machine that is alive, by node id."""
    return {n["NodeID"]: n["Resources"] for n in ray.nodes() if n["Alive"]}  # type: ignore[no-untyped-call]


def first_line(error: Exception) -> str:
    """Return the first line of the error's text, or its class where it has none."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
