"""The Terraform modules for AWS: formatted, valid, and right by their own tests, on mocks of the provider."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.terraform.aws_root import SOURCE, AwsRoot

pytestmark = pytest.mark.terraform


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> AwsRoot:
    return AwsRoot.make(tmp_path_factory.mktemp("aws"))


def test_the_modules_are_formatted() -> None:
    done = subprocess.run(
        ["terraform", "fmt", "-check", "-recursive", str(SOURCE)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_modules_are_valid(root: AwsRoot) -> None:
    assert "The configuration is valid" in root.run("validate")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_modules_pass_their_own_tests(root: AwsRoot) -> None:
    said = root.run("test")
    assert re.search(r"Success! [1-9]\d* passed, 0 failed", said), said


@pytest.mark.parametrize("module", [".", *sorted(f"modules/{path.name}" for path in (SOURCE / "modules").iterdir())])
def test_a_module_has_the_standard_files_and_describes_all(module: str) -> None:
    folder = SOURCE / module
    for name in ("main.tf", "variables.tf", "outputs.tf", "versions.tf"):
        assert (folder / name).is_file()
    for path in (folder / "variables.tf", folder / "outputs.tf"):
        blocks = re.findall(r'^(?:variable|output) "(\w+)" \{\n(.*?)^\}', path.read_text(), re.MULTILINE | re.DOTALL)
        lacking = [name for name, body in blocks if "description" not in body]
        assert lacking == []
        untyped = [name for name, body in blocks if path.name == "variables.tf" and "  type " not in body]
        assert untyped == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_checkov_finds_nothing_but_what_is_skipped_with_a_reason() -> None:
    script = Path(__file__).with_name("run-checkov")
    environment = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(
        [str(script), "--output", "json"], capture_output=True, text=True, check=False, env=environment
    )
    assert done.stdout, done.stderr
    found = json.loads(done.stdout)
    assert [f"{one['check_id']} {one['resource']}" for one in found["results"]["failed_checks"]] == []
    assert found["summary"]["parsing_errors"] == 0
    assert found["summary"]["passed"] > 50
