"""The typed inventory of a cluster: what Terraform's output `inventory` says, whoever provisioned it.

Both root modules, `terraform/aws` and `terraform/onprem`, put out this one shape; all that talks to a cluster reads it.
It holds no secret: of the token only where it lies.
"""

import json
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tuneyard.cluster.errors import ClusterError

FORMAT = 1


class _Plain(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Ssh(_Plain):
    """How to reach a machine over SSH; what is None is left to the user's own ssh configuration and agent."""

    host: str
    user: str = "root"
    port: int = 22
    key_file: Path | None = Field(None, description="A private key on this machine.")
    jump: str | None = Field(None, description="user@host:port of a jump host.")
    known_hosts: Path | None = Field(None, description="A known_hosts file; host keys are always checked.")


class Node(_Plain):
    """A machine of the cluster."""

    name: str
    address: str = Field(description="Its private address, as the other nodes reach it.")
    ssh: Ssh | None = None
    instance_id: str | None = Field(None, description="AWS: reached through SSM by this id.")
    group: str = Field("", description="The group of workers that it belongs to.")


class Group(_Plain):
    """Workers that are alike. In a cloud its machines come and go, up to `count`."""

    name: str
    machines: list[str] = Field(default_factory=list, description="Instance types, in order of preference.")
    count: int = Field(ge=0)
    gpus: int = Field(0, ge=0, description="GPUs of each machine.")
    on_demand_percent: int = Field(100, ge=0, le=100, description="The rest are spot.")
    autoscaling_group: str | None = None


class Token(_Plain):
    """Where Ray's authentication token lies: a file of mode 0600 on this machine, or an SSM parameter."""

    file: Path | None = None
    parameter: str | None = None


class Inventory(_Plain):
    """A cluster as its provisioner left it."""

    format: Literal[1] = 1
    name: str
    kind: Literal["aws", "onprem"]
    version: str = Field(description="The version of tuneyard on its nodes.")
    region: str | None = None
    head: Node
    head_machine: str | None = Field(None, description="The head's instance type.")
    workers: list[Node] = Field(default_factory=list, description="On-prem: all. In a cloud: none, see groups.")
    groups: list[Group] = Field(default_factory=list)
    gcs_port: int = 6379
    dashboard_port: int = Field(8265, description="On the head's loopback only: reached through a tunnel.")
    token: Token
    python: str = Field(description="The Python on the nodes that has tuneyard.")
    folder: str = Field(description="The cluster's own folder on each node.")
    store: str | None = Field(None, description="The URI under which runs belong, such as s3://bucket/prefix.")
    endpoint_url: str | None = None
    tls: bool = False

    @property
    def nodes(self) -> list[Node]:
        """The head, then the workers that are known by name."""
        return [self.head, *self.workers]


def parse_inventory(text: str, source: str) -> Inventory:
    """The inventory of this JSON; `source` names it in errors.

    Raises:
        ClusterError: it is none, or of a newer format.
    """
    try:
        plain = json.loads(text)
    except json.JSONDecodeError as error:
        raise ClusterError(f"{source} is not JSON: {error}. Apply the cluster again: tuneyard up.") from error
    found = plain.get("format") if isinstance(plain, dict) else None
    if found != FORMAT:
        raise ClusterError(
            f"{source} is an inventory of format {found}, and this tuneyard reads {FORMAT}. Install the tuneyard that "
            "made the cluster, or apply it again with this one: tuneyard up."
        )
    try:
        return Inventory.model_validate(plain)
    except ValidationError as error:
        raise ClusterError(f"{source} is not an inventory: {error}. Apply the cluster again: tuneyard up.") from error
