"""The clusters of this user: where each keeps its Terraform folder, variables and inventory, and how one is found."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from tuneyard.cluster.errors import ClusterError
from tuneyard.cluster.inventory import Inventory, parse_inventory
from tuneyard.cluster.nearest import allowed_instead
from tuneyard.cluster.private_files import make_private_folder, write_private
from tuneyard.cluster.provision.terraform import Terraform

Kind = Literal["aws", "onprem"]
KINDS: tuple[Kind, ...] = get_args(Kind)
NAME = re.compile(r"[a-z]([a-z0-9-]{0,22}[a-z0-9])?")
INVENTORY = "inventory"
"""The output of both root modules."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster, running or not.

    Attributes:
        folder: its own folder, mode 0700; of one that was applied plainly, the user's Terraform folder.
        root: Terraform's working folder: a copy of the module, and the state.
        ours: made by `tuneyard up`; otherwise nothing is written into its folder.
    """

    name: str
    folder: Path
    root: Path
    ours: bool = True

    @property
    def kind(self) -> Kind | None:
        """What it is made of; None for one that was applied plainly, whose inventory knows."""
        return next((kind for kind in KINDS if self.ours and self.root.name == kind), None)

    @property
    def variables_file(self) -> Path:
        """The values of the module's variables, as `tuneyard up` was told them. No secrets."""
        return self.folder / "variables.json"

    @property
    def token_file(self) -> Path:
        """On-prem: where Ray's token lies on this machine."""
        return self.folder / "token"

    @property
    def log_file(self) -> Path:
        """What Terraform said, all runs one after the other."""
        return self.folder / "terraform.log"

    @property
    def inventory_file(self) -> Path:
        """The inventory of the last apply."""
        return self.folder / "inventory.json"

    def inventory(self) -> Inventory:
        """Its inventory: as it was kept, or from Terraform's output where the state is newer than what was kept.

        Raises:
            ClusterError: it has none, since it was never applied, or is destroyed; or Terraform is missing.
        """
        if not self.ours:
            return self._from_terraform()
        state = self.root / "terraform.tfstate"
        kept = self.inventory_file.stat().st_mtime_ns if self.inventory_file.exists() else 0
        if kept and (not state.exists() or state.stat().st_mtime_ns <= kept):
            return parse_inventory(self.inventory_file.read_text(), str(self.inventory_file))
        return self.renew_inventory()

    def last_inventory(self) -> Inventory:
        """The inventory of the last apply, also when a destroy has begun since then.

        Raises:
            ClusterError: there was none.
        """
        if self.inventory_file.exists():
            return parse_inventory(self.inventory_file.read_text(), str(self.inventory_file))
        return self.inventory()

    def renew_inventory(self) -> Inventory:
        """Take the inventory from Terraform's output, and keep it.

        Raises:
            ClusterError: as `inventory`.
        """
        found = self._from_terraform()
        write_private(self.inventory_file, found.model_dump_json(indent=1))
        return found

    def _from_terraform(self) -> Inventory:
        value = Terraform(self.root).output(INVENTORY)
        if value is None:
            again = f"tuneyard up --cluster {self.name}" if self.ours else f"terraform -chdir={self.root} apply"
            raise ClusterError(
                f"Cluster {self.name} is not up: Terraform has no inventory in {self.root}. Run: {again}"
            )
        return parse_inventory(json.dumps(value), f"Terraform's output {INVENTORY!r} in {self.root}")


def clusters_folder() -> Path:
    """Where all clusters of this user have their folders."""
    return Path.home() / ".tuneyard" / "clusters"


def list_clusters() -> list[Cluster]:
    """The clusters that `tuneyard up` has made and `tuneyard down` has not removed, by name."""
    found = (_at(folder) for folder in sorted(clusters_folder().glob("*")) if folder.is_dir())
    return [cluster for cluster in found if cluster is not None]


def find_cluster(name_or_folder: str | None) -> Cluster:
    """The cluster of this name; or the one whose Terraform folder this is; for None the only one that there is.

    A folder is told from a name by its slash: `./lab` is a folder.

    Raises:
        ClusterError: there is none, or for None there are several.
    """
    if name_or_folder is not None and "/" in name_or_folder:
        return _plain(Path(name_or_folder).expanduser())
    known = {cluster.name: cluster for cluster in list_clusters()}
    if name_or_folder is None:
        if len(known) == 1:
            return next(iter(known.values()))
        if known:
            raise ClusterError(f"There are several clusters. Say which: --cluster {'|'.join(known)}.")
        raise ClusterError(f"There is no cluster in {clusters_folder()}. Make one: tuneyard up --help tells how.")
    if name_or_folder not in known:
        there = allowed_instead(name_or_folder, known) if known else f"There is none in {clusters_folder()}."
        raise ClusterError(
            f"Cluster {name_or_folder!r} is not known. {there} A folder is given with a slash: ./FOLDER."
        )
    return known[name_or_folder]


def make_cluster(name: str, kind: Kind) -> Cluster:
    """The cluster of this name, with a folder of its own; one that is there already is left as it is.

    Raises:
        ClusterError: the name is not allowed, or the cluster is of the other kind.
    """
    if not NAME.fullmatch(name):
        raise ClusterError(
            f"Cluster {name!r} cannot be called so. Allowed: lower-case letters, digits and dashes, 24 at most, a "
            "letter first, no dash at the end."
        )
    folder = clusters_folder() / name
    there = _at(folder)
    if there is not None and there.kind != kind:
        raise ClusterError(
            f"Cluster {name} is there already, and is of kind {there.kind}, not {kind}. Give the new one another "
            f"--cluster NAME, or end the old one: tuneyard down --cluster {name}"
        )
    make_private_folder(folder / kind)
    return Cluster(name, folder, folder / kind)


def _at(folder: Path) -> Cluster | None:
    kinds = [kind for kind in KINDS if (folder / kind).is_dir()]
    return Cluster(folder.name, folder, folder / kinds[0]) if kinds else None


def _plain(folder: Path) -> Cluster:
    if not any(folder.glob("*.tf")):
        raise ClusterError(f"{folder} is no Terraform folder: it has no .tf file. Give the folder that was applied.")
    folder = folder.resolve()
    # One of ours may be named by its folder too; then it has all that ours have.
    if folder.parent.parent == clusters_folder() and folder.name in KINDS:
        return Cluster(folder.parent.name, folder.parent, folder)
    return Cluster(folder.name, folder, folder, ours=False)
