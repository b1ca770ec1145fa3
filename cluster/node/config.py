"""What a node of a cluster must know about itself: `node.json` in the cluster's folder on it. It holds no secret."""

import json
import socket
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tuneyard.cluster.errors import ClusterError

CONFIG_FILE = "node.json"
TOKEN_FILE = "token"  # noqa: S105  (a file's name)

ClusterName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,23}$")]
Port = Annotated[int, Field(ge=1, le=65535)]

PORTS = 102
"""So many ports after the GCS's are those of Ray's agents and of its raylet (`ray_process.py`)."""


class NodeConfig(BaseModel):
    """`node.json`. Whoever provisions the node writes it; the node's own program reads it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cluster: ClusterName = Field(description="The cluster's name.")
    role: Literal["head", "worker"] = Field(description="The head runs Ray's GCS and dashboard; workers join it.")
    name: str = Field("", description="Ray's name for the node. Empty: the machine's host name.")
    address: str = Field("", description="The address by which the other nodes reach it. Empty: found out.")
    head: str = Field("", description="The head's address; empty on the head itself.")
    kind: Literal["aws", "onprem"] = Field(description="What provisioned it.")
    region: str | None = Field(None, description="AWS: the region of its parameters and its autoscaling group.")
    gcs_port: Port = Field(6379, description="Where the head's GCS listens; Ray's own take the 102 ports after it.")
    dashboard_port: Port = Field(8265, description="Where the head's dashboard listens, on 127.0.0.1 only.")
    num_cpus: int | None = Field(None, ge=0, description="CPUs that Ray hands out. None: Ray counts.")
    num_gpus: int | None = Field(None, ge=0, description="GPUs that Ray hands out. None: Ray counts.")
    token_parameter: str | None = Field(None, description="AWS: SSM parameter of Ray's token. None: file `token`.")
    environment_file: Path | None = Field(
        None, description="A file of KEY=VALUE lines that the user keeps on the machine, for Ray and all it runs."
    )
    parameters: dict[str, str] = Field(
        default_factory=dict, description="AWS: environment variables, each with the SSM parameter that has its value."
    )
    tls: bool = Field(False, description="TLS between the nodes, with the certificates in the folder `tls`.")
    idle_minutes: float | None = Field(None, gt=0, description="A worker leaves after so long without work.")
    head_idle_minutes: float | None = Field(None, gt=0, description="The same of the head, when no worker is left.")
    scratch: Path | None = Field(None, description="Where Ray's temporary files go. None: the folder `ray`.")
    autoscaling_group: str | None = Field(None, description="AWS: the group that a worker belongs to.")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.role == "worker" and not self.head:
            raise ValueError("a worker needs `head`: the head's address")
        if self.gcs_port <= self.dashboard_port <= self.gcs_port + PORTS:
            raise ValueError(f"`dashboard_port` is one of `gcs_port` and the {PORTS} after it, which Ray's own take")
        return self

    @property
    def node_name(self) -> str:
        """Ray's name for this node."""
        return self.name or socket.gethostname()

    @property
    def head_address(self) -> str:
        """The head's address as this node knows it: on the head its own, which may be empty."""
        return self.head if self.role == "worker" else self.address


def read_config(folder: Path) -> NodeConfig:
    """The node's configuration in the cluster's folder.

    Raises:
        ClusterError: there is none, or it is not valid; with what to do.
    """
    path = folder / CONFIG_FILE
    again = "Apply the cluster again: it writes this file."
    try:
        return NodeConfig.model_validate(json.loads(path.read_text()))
    except FileNotFoundError as error:
        raise ClusterError(f"{path} does not exist: this machine is no node of that cluster. {again}") from error
    except OSError as error:
        raise ClusterError(f"{path} cannot be read: {error}. Run this as the user who owns {folder}.") from error
    except (json.JSONDecodeError, ValidationError) as error:
        raise ClusterError(f"{path} is not a node's configuration: {error}. {again}") from error
