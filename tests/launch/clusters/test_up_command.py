import json
import stat
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tests.cluster.provision.small_module import small_module  # noqa: F401 - a fixture
from tuneyard.cluster.errors import ClusterError
from tuneyard.cluster.provision.clusters import find_cluster, list_clusters
from tuneyard.cluster.provision.terraform import Terraform, TerraformError
from tuneyard.launch.clusters.app import app

pytestmark = [pytest.mark.terraform, pytest.mark.usefixtures("small_module")]


def run(*words: str, answer: str | None = None) -> Result:
    return CliRunner().invoke(app, [*words], catch_exceptions=False, input=answer, env={"COLUMNS": "120"})


def variables() -> dict[str, Any]:
    return dict(json.loads(find_cluster("lab").variables_file.read_text()))


def lab(tmp_path: Path, **more: object) -> str:
    path = tmp_path / "lab.yaml"
    path.write_text(json.dumps({"name": "lab", "kind": "onprem", "python": "/usr/bin/python3", **more}))
    return str(path)


def test_a_cluster_is_made_changed_and_ended(tmp_path: Path) -> None:
    made = run("up", lab(tmp_path, ssh={"key_file": "keys/id"}), "workers=2", "--yes")
    assert made.exit_code == 0
    assert "Terraform makes 3." in made.output
    assert "Cluster lab is up: head 10.0.0.1, 2 workers." in made.output
    assert variables() == {
        "name": "lab", "python": "/usr/bin/python3", "workers": 2, "ssh": {"key_file": str(tmp_path / "keys/id")},
        "token_file": str(find_cluster("lab").token_file),
    }  # fmt: skip
    assert len(find_cluster(None).inventory().workers) == 2

    changed = run("up", "workers=1", "--yes")
    assert "Terraform destroys 1." in changed.output
    assert "terraform_data.worker[1]" in changed.output
    assert variables()["ssh"] == {"key_file": str(tmp_path / "keys/id")}, "what was given stays"

    again = run("up", "--yes")
    assert "all is as it should be" in again.output

    ended = run("down", "--yes")
    assert ended.exit_code == 0
    assert "Terraform destroys 2." in ended.output
    assert "Nothing is left of cluster lab." in ended.output
    assert list_clusters() == []
    assert list((tmp_path / "home/.tuneyard/clusters").iterdir()) == []


def test_everything_kept_is_the_owners_alone(tmp_path: Path) -> None:
    run("up", lab(tmp_path, python=None), "--yes")
    cluster = find_cluster("lab")
    open_to_others = [
        path for path in cluster.folder.rglob("*")
        if path.is_file() and path.parent == cluster.folder and stat.S_IMODE(path.stat().st_mode) & 0o077
    ]  # fmt: skip
    assert open_to_others == []
    assert stat.S_IMODE(cluster.folder.stat().st_mode) == 0o700
    assert {path.name for path in cluster.folder.iterdir()} == {
        "onprem", "package", "variables.json", "inventory.json", "terraform.log", "ledger.jsonl",
    }  # fmt: skip


@pytest.mark.slow
def test_without_a_python_the_nodes_get_our_wheel(tmp_path: Path) -> None:
    run("up", lab(tmp_path, python=None), "--yes")
    package = Path(variables()["package"])
    assert package.name.startswith("tuneyard-")
    assert package.exists()
    assert "torch==" in Path(variables()["constraints"]).read_text()
    run("up", "python=/usr/bin/python3", "--yes")
    assert "package" not in variables()


def test_a_dry_run_shows_and_leaves_nothing(tmp_path: Path) -> None:
    shown = run("up", lab(tmp_path), "--dry-run")
    assert "Terraform makes 2." in shown.output
    assert "your own machines" in shown.output
    assert list_clusters() == []


def test_nobody_to_ask_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"nobody to ask here.*--yes"):
        run("up", lab(tmp_path), answer="y\n")
    assert list_clusters() == []


def test_no_is_no(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuneyard.launch.clusters.up_command.agreed", lambda question, yes: False)
    refused = run("up", lab(tmp_path))
    assert refused.exit_code == 1
    assert "Nothing was changed." in refused.output
    assert list_clusters() == []


@pytest.mark.slow
def test_a_failed_apply_keeps_what_the_next_one_needs(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"(?s)terraform apply failed.*local-exec.*terraform\.log"):
        run("up", lab(tmp_path), "pause_s=-1", "--yes")
    assert find_cluster("lab").variables_file.exists()
    assert run("up", "pause_s=0", "--yes").exit_code == 0


def test_what_is_there_already_comes_with_the_command_that_takes_it_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Terraform, file: Path) -> None:
        raise TerraformError("terraform apply failed: no.", [('module.workers["gpu"].aws_x.y', "tuneyard-lab-gpu")])

    monkeypatch.setattr(Terraform, "apply", refuse)
    with pytest.raises(ClusterError) as told:
        run("up", lab(tmp_path), "--yes")
    cluster = find_cluster("lab")
    assert str(told.value).splitlines()[-1] == (
        f"  terraform -chdir={cluster.root} import -var-file={cluster.variables_file} "
        "'module.workers[\"gpu\"].aws_x.y' tuneyard-lab-gpu"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--on", "onprem", "worker=3"], r"Variable 'worker' is not known. Did you mean 'workers'\?"),
        (["--on", "onpren"], r"--on onpren: not known. Did you mean 'onprem'\? Allowed: aws, onprem"),
        (["--cluster", "lab"], "Cluster 'lab' is not there yet. Say what it is made of: --on aws, or --on onprem"),
        (["--cluster", "lab", "name=box", "--on", "onprem"], "The name of the cluster is given twice: lab and box"),
        (["--cluster", "La_b", "--on", "onprem"], "Cluster 'La_b' cannot be called so"),
    ],
)
def test_mistakes_are_told_before_terraform_runs(words: list[str], message: str) -> None:
    with pytest.raises(ClusterError, match=message):
        run("up", *words)
    assert list_clusters() == []


def test_the_variables_are_listed() -> None:
    text = run("up", "--on", "onprem", "--variables").output
    assert "workers  number, without it 1" in text
    assert "More is faster." in text
    assert "name  string, must be given" in text
