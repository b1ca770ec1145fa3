"""What Ray, and Ray Tune's controller, know of nodes and of the processes on them.

The controller's own fields say which process serves which trial, and Ray has no other way to ask for it;
tests/tune/test_draining.py asks a real one.
"""

import time
from collections import Counter
from collections.abc import Collection
from typing import Any

import ray
from ray._private import state
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tuneyard.tune.departures import Process


@ray.remote(num_cpus=0, max_retries=0)
def _nothing() -> None:
    pass


class RayPlace:
    """Ray Tune's controller, and the cluster that it runs on."""

    def __init__(self, controller: Any) -> None:
        self._controller = controller

    def draining(self) -> dict[str, float | None]:
        """Node id -> the seconds until it is taken away; None where nothing was said of that."""
        now = time.time()
        found: dict[str, int] = state.state.get_draining_nodes()
        # Ray's largest number stands for none, too.
        return {
            node: max(deadline_ms / 1000 - now, 0.0) if 0 < deadline_ms < 2**62 else None
            for node, deadline_ms in found.items()
        }

    def processes(self) -> list[Process]:
        """Those that have got their resources: starting, training, or kept for the next leg."""
        controller = self._controller
        groups = ray.util.placement_group_table()
        found = []
        for tracked, (actor, resources) in controller._actor_manager._live_actors_to_ray_actors_resources.items():
            if tracked in controller._stopping_actors:
                continue
            trial = controller._actor_to_trial.get(tracked)
            group = groups.get(resources.placement_group.id.hex(), {})
            found.append(
                Process(
                    run_id=trial.config["run_id"] if trial is not None else None,
                    actor=actor,
                    actor_id=actor._actor_id.hex(),
                    started=tracked in controller._started_actors,
                    nodes=frozenset(group.get("bundles_to_node_id", {}).values()),
                )
            )
        return found

    def drop_kept(self) -> None:
        """End every process that Ray Tune keeps for the next leg."""
        self._controller._cleanup_cached_actors(force_all=True)

    def end(self, process: Process) -> None:
        """End a process at once. To Ray Tune it is one that died."""
        ray.kill(process.actor)

    def unplaced(self) -> set[str]:
        """The ids of this driver's placement groups that have no resources yet."""
        job = ray.get_runtime_context().get_job_id()  # what such an id ends with
        return {
            group for group, about in ray.util.placement_group_table().items()
            if group.endswith(job) and about["state"] in ("PENDING", "RESCHEDULING")
        }  # fmt: skip

    def stir(self) -> None:
        """Make every node tell its resources anew, by a task that changes them; it takes nothing that others need."""
        for node in ray.nodes():
            own = [name for name in node["Resources"] if name.startswith("node:") and not name.startswith("node:__")]
            if node["Alive"] and own:
                there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                _nothing.options(resources={own[0]: 0.001}, scheduling_strategy=there).remote()

    def free(self) -> str:
        """How many of the cluster's cores, and of its GPUs if it has some, are free."""
        there, free = ray.cluster_resources(), ray.available_resources()
        cores = f"{free.get('CPU', 0.0):g} of {there.get('CPU', 0.0):g} cores"
        return cores + (f" and {free.get('GPU', 0.0):g} of {there['GPU']:g} GPUs" if "GPU" in there else "")


def resources_without(nodes: Collection[str]) -> dict[str, float]:
    """The cluster's resources in all, without those of these nodes."""
    if not nodes:
        return dict(ray.cluster_resources())
    there = Counter[str]()
    for node, resources in state.state.total_resources_per_node().items():
        if node not in nodes:
            there.update(resources)
    return dict(there)
