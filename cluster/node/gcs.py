"""What Ray's head knows of its nodes, and the order to leave: the only place of the cluster's room that imports Ray.

It speaks to the GCS past Ray's own client, which ends the whole process when its head is away for a minute.
"""

import importlib
import os
import time
from dataclasses import dataclass
from typing import Any, Literal

from tuneyard.cluster.errors import ClusterError
from tuneyard.cluster.node.config import NodeConfig
from tuneyard.cluster.node.environment import connection_environment
from tuneyard.cluster.node.folder import NodeFolder
from tuneyard.cluster.node.ray_process import own_address

TIMEOUT_S = 10.0
INTERNAL = "_ray_internal"
"""How the namespaces begin that Ray's own programs, such as its dashboard, run jobs in."""

NodeState = Literal["busy", "idle", "draining", "left", "lost"]
Reason = Literal["preemption", "idle"]


class BusyError(ClusterError):
    """The node has work, and is not to leave for want of it."""


@dataclass(frozen=True, slots=True)
class RayNode:
    """A node as the head sees it. left: it was drained and has ended. idle_s: since it had work, 0 with work."""

    node_id: str
    name: str
    address: str
    head: bool
    state: NodeState
    idle_s: float = 0.0

    @property
    def alive(self) -> bool:
        """Does its Ray run?"""
        return self.state not in ("left", "lost")


class Gcs:
    """A connection to the head. Every call raises ClusterError where the head does not answer, or refuses."""

    def __init__(self, address: str) -> None:
        """`address`: host:port. The token and the certificates are those that the environment names."""
        from ray._private.gcs_utils import create_gcs_channel

        self._address = address
        self._channel: Any = create_gcs_channel(address)
        self._autoscaler = _generated("autoscaler_pb2_grpc").AutoscalerStateServiceStub(self._channel)
        self._nodes = _generated("gcs_service_pb2_grpc").NodeInfoGcsServiceStub(self._channel)
        self._jobs = _generated("gcs_service_pb2_grpc").JobInfoGcsServiceStub(self._channel)

    def close(self) -> None:
        """Let the connection go."""
        self._channel.close()

    def nodes(self) -> list[RayNode]:
        """All nodes that Ray remembers, in the order they came; of those that are gone about a thousand."""
        known = self._ask(self._nodes.GetAllNodeInfo, _generated("gcs_service_pb2").GetAllNodeInfoRequest())
        states = self._ask(
            self._autoscaler.GetClusterResourceState, _generated("autoscaler_pb2").GetClusterResourceStateRequest()
        ).cluster_resource_state.node_states
        by_id = {state.node_id: state for state in states}
        return [
            _node(info, by_id.get(info.node_id))
            for info in sorted(known.node_info_list, key=lambda info: info.start_time_ms)
        ]

    def drain(self, node_id: str, reason: Reason, message: str, within_s: float | None = None) -> None:
        """Have a node given no new work, and its Ray end when it has none left. Told twice it changes nothing.

        `within_s`: the machine goes then, whatever runs on it. Raises BusyError where a node is to leave as idle and
        has work.
        """
        messages = _generated("autoscaler_pb2")
        name = "PREEMPTION" if reason == "preemption" else "IDLE_TERMINATION"
        request = messages.DrainNodeRequest(
            node_id=bytes.fromhex(node_id),
            reason=messages.DrainNodeReason.Value(f"DRAIN_NODE_REASON_{name}"),
            reason_message=message,
            deadline_timestamp_ms=0 if within_s is None else int((time.time() + within_s) * 1000),
        )
        answer = self._ask(self._autoscaler.DrainNode, request)
        if not answer.is_accepted:
            raise BusyError(f"The node was not drained: {answer.rejection_reason_message}")

    def running_jobs(self) -> int:
        """How many jobs run, whether submitted or started by hand; Ray's own do not count."""
        request = _generated("gcs_service_pb2").GetAllJobInfoRequest(
            skip_submission_job_info_field=True, skip_is_running_tasks_field=True
        )
        jobs = self._ask(self._jobs.GetAllJobInfo, request).job_info_list
        return sum(not job.is_dead and not job.config.ray_namespace.startswith(INTERNAL) for job in jobs)

    def _ask(self, method: Any, request: Any) -> Any:
        import grpc  # type: ignore[import-untyped]

        try:
            return method(request, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            code = getattr(error, "code", lambda: None)()
            said = getattr(error, "details", lambda: "")() or ""
            if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
                raise ClusterError(f"Ray at {self._address} refuses this token: {said}") from error
            raise ClusterError(f"Ray's head at {self._address} does not answer: {said or code}") from error


def connect(config: NodeConfig, folder: NodeFolder) -> Gcs:
    """The head of the cluster that this machine is a node of.

    Ray reads the token and the certificates from this process' environment, which is set here.
    """
    os.environ.update(connection_environment(config, folder))
    return Gcs(f"{config.head_address or own_address(config)}:{config.gcs_port}")


def load() -> None:
    """Import what a connection needs: seconds, which are short after a notice."""
    import ray._private.gcs_utils  # noqa: F401

    for name in ("autoscaler_pb2_grpc", "gcs_service_pb2_grpc"):
        _generated(name)


def own_node(nodes: list[RayNode], config: NodeConfig) -> RayNode | None:
    """This machine's node among them: the newest of its name and address, since a Ray that was started again is new.

    None where it has not joined yet.
    """
    address = own_address(config)
    ours = [node for node in nodes if node.name == config.node_name and node.address == address]
    alive = [node for node in ours if node.alive]
    return next(reversed(alive or ours), None)


def _node(info: Any, state: Any) -> RayNode:
    death, status = _generated("common_pb2").NodeDeathInfo, _generated("autoscaler_pb2").NodeStatus
    if info.state == _generated("gcs_pb2").GcsNodeInfo.DEAD:
        drained = (death.AUTOSCALER_DRAIN_PREEMPTED, death.AUTOSCALER_DRAIN_IDLE)
        found: NodeState = "left" if info.death_info.reason in drained else "lost"
    elif state is not None and state.status == status.DRAINING:
        found = "draining"
    elif state is not None and state.status == status.IDLE:
        found = "idle"
    else:
        found = "busy"
    idle_s = state.idle_duration_ms / 1000 if state is not None and found == "idle" else 0.0
    return RayNode(
        info.node_id.hex(), info.node_name, info.node_manager_address, info.is_head_node, found, idle_s
    )  # fmt: skip


def _generated(name: str) -> Any:
    """One of Ray's modules of messages and services. They are generated, and carry no types."""
    return importlib.import_module(f"ray.core.generated.{name}")
