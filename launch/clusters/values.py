"""What a user gives `tuneyard up`: files of values and KEY=VALUE words, joined with what was given before."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneyard.cluster.errors import ClusterError
from tuneyard.cluster.nearest import allowed_instead
from tuneyard.cluster.provision.clusters import KINDS, Cluster, Kind, list_clusters, make_cluster
from tuneyard.cluster.provision.module_tree import module_folder
from tuneyard.cluster.provision.variables import Variable, changed, check_names, declared, read_values
from tuneyard.cluster.provision.wheel import CONSTRAINTS, build_wheel

_PATHS = ("key_file", "known_hosts", "token_file", "package", "constraints")
"""Values that are paths on this machine: Terraform runs elsewhere, so they are made full."""
DEFAULT_NAME = "tuneyard"


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked for: which cluster, of what, and the values of the files with full paths."""

    name: str
    kind: Kind
    values: dict[str, Any]
    words: tuple[str, ...]


def read_request(words: Sequence[str], name: str | None, kind: str | None) -> Asked:
    """Read the files, and find out which cluster is meant.

    A file may say `kind: aws` or `kind: onprem`, and `name: NAME`, so that it is all that a cluster needs. (Not `on`:
    to YAML that is a word for true.)

    Raises:
        ClusterError: a file is wrong; or the name and the kind contradict each other, or are not clear.
    """
    values: dict[str, Any] = {}
    for word in words:
        if "=" not in word:
            path = Path(word).expanduser()
            values |= _full_paths(read_values(path), path.absolute().parent)
    overrides = tuple(word for word in words if "=" in word)
    name = _one("the name", name, values.get("name"), *(word[5:] for word in overrides if word.startswith("name=")))
    known = {cluster.name: cluster for cluster in list_clusters()}
    if name is None and len(known) > 1:
        raise ClusterError(f"There are several clusters. Say which: --cluster {'|'.join(known)}, or a new name.")
    name = name or next(iter(known), DEFAULT_NAME)
    kind = _one("the kind", kind, values.pop("kind", None)) or (known[name].kind if name in known else None)
    if kind is None:
        raise ClusterError(
            f"Cluster {name!r} is not there yet. Say what it is made of: --on aws, or --on onprem with a file of hosts."
        )
    if kind not in KINDS:
        raise ClusterError(f"--on {kind}: not known. {allowed_instead(kind, KINDS)}")
    return Asked(name, kind, values, tuple(word for word in overrides if not word.startswith("name=")))


def variables_of(kind: Kind) -> dict[str, Variable]:
    """The variables of this kind of cluster."""
    return declared(module_folder(kind))


def wanted_values(asked: Asked, cluster: Cluster) -> dict[str, Any]:
    """All values for Terraform: those that the cluster had, changed by the request, and those that we give.

    Raises:
        ClusterError: a name is not known, or a word is wrong.
    """
    variables = variables_of(asked.kind)
    kept = json.loads(cluster.variables_file.read_text()) if cluster.variables_file.exists() else {}
    given = {key: value for key, value in asked.values.items() if value is not None}
    removed = {key for key, value in asked.values.items() if value is None}
    values = {key: value for key, value in (kept | given).items() if key not in removed}
    values = _full_paths(changed(values, asked.words, variables), Path.cwd())
    check_names(values, variables)
    values["name"] = asked.name
    if "token_file" in variables:
        values.setdefault("token_file", str(cluster.token_file))
    if values.get("python"):
        values = {key: value for key, value in values.items() if not _ours(key, value, cluster)}
    elif "package" not in values or _ours("package", values["package"], cluster):
        values["package"] = str(build_wheel(cluster.folder / "package"))
        values["constraints"] = values.get("constraints") or str(_copied(CONSTRAINTS, cluster))
    return values


def cluster_of(asked: Asked) -> Cluster:
    """The cluster's folder, made where it is not there.

    Raises:
        ClusterError: the name is not allowed, or it is there and of the other kind.
    """
    return make_cluster(asked.name, asked.kind)


def _ours(key: str, value: Any, cluster: Cluster) -> bool:
    return key in ("package", "constraints") and str(value).startswith(f"{cluster.folder}/package/")


def _copied(path: Path, cluster: Cluster) -> Path:
    """A copy in the cluster's folder: an update of tuneyard must not change what the next destroy reads."""
    copy = cluster.folder / "package" / path.name
    copy.write_bytes(path.read_bytes())
    return copy


def _one(what: str, *given: Any) -> str | None:
    found = list(dict.fromkeys(str(one) for one in given if one is not None))
    if len(found) > 1:
        raise ClusterError(
            f"{what.capitalize()} of the cluster is given twice: {' and '.join(found)}. Give one of them."
        )
    return found[0] if found else None


def _full_paths(values: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """The same with full paths; those that are full already, or begin with ~, stay."""

    def full(key: str, value: Any) -> Any:
        if isinstance(value, dict):
            return {inner: full(inner, one) for inner, one in value.items()}
        if key in _PATHS and isinstance(value, str):
            return str(base / Path(value).expanduser())
        return value

    return {key: full(key, value) for key, value in values.items()}
