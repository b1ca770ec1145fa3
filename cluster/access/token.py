"""Ray's token of a cluster: read where it lies, put into the header of a request, and shown nowhere."""

import stat
from pathlib import Path

from tuneyard.cluster.errors import ClusterError
from tuneyard.cluster.inventory import Inventory

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def read_token(inventory: Inventory) -> str:
    """The cluster's token, from its file on this machine or from SSM's Parameter Store.

    Raises:
        ClusterError: there is none, it may not be read, or others may read the file too.
    """
    token = inventory.token
    if token.file is not None:
        return _from_file(token.file.expanduser(), inventory.name)
    if token.parameter is not None:
        from tuneyard.cluster.aws import read_parameter

        return _usable(read_parameter(token.parameter, inventory.region), f"SSM parameter {token.parameter}")
    raise ClusterError(
        f"The inventory of cluster {inventory.name} does not say where its token is. {_again(inventory)}"
    )


def authorization(token: str) -> dict[str, str]:
    """The header that Ray's dashboard asks for."""
    return {"Authorization": f"Bearer {token}"}


def _from_file(path: Path, name: str) -> str:
    try:
        with path.open() as file:
            mode = stat.S_IMODE(path.stat().st_mode)
            if mode & _OTHERS:
                raise ClusterError(
                    f"{path} is the token of cluster {name}, with which anyone runs commands on it, and its mode "
                    f"{mode:04o} lets others read it. Allowed: 0600. Run: chmod 600 {path}"
                )
            return _usable(file.read(), str(path))
    except OSError as error:
        raise ClusterError(
            f"The token of cluster {name} cannot be read: {path}: {error.strerror}. It is made when the cluster is; "
            "copy it from the machine that made it, with mode 0600."
        ) from error


def _usable(text: str, where: str) -> str:
    found = text.strip()
    # A header takes one line of ASCII; what it holds instead must not be repeated.
    if not found or not found.isascii() or not found.isprintable() or " " in found:
        raise ClusterError(f"{where} holds no token: one line of letters, digits and signs. Make the cluster again.")
    return found


def _again(inventory: Inventory) -> str:
    return f"Apply the cluster again: tuneyard up --cluster {inventory.name}"
