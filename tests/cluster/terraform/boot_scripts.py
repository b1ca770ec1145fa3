"""The boot scripts of `terraform/aws`, rendered by Terraform without AWS.

`python -m tests.cluster.terraform.boot_scripts` writes the golden files anew: read the difference before you keep it.
"""

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.cluster.terraform.aws_root import SOURCE

GOLDEN = Path(__file__).parent / "golden"
FILES = {
    "package": {"key": "tuneyard/packages/0123456789abcdef/tuneyard-0.1.0-py3-none-any.whl", "sha256": "a" * 64},
    "constraints": {"key": "tuneyard/packages/0123456789abcdef/constraints.txt", "sha256": "b" * 64},
}
COMMON: dict[str, Any] = {
    "cluster": "lab", "region": "eu-central-1", "folder": "/opt/tuneyard/lab", "bucket": "tuneyard-lab-1",
    "token_parameter": "/tuneyard/lab/token",
}  # fmt: skip
WORKER = {"role": "worker", "head": "10.64.0.10", "autoscaling_group": "tuneyard-lab-gpu", "idle_minutes": 30}
CASES: dict[str, dict[str, Any]] = {
    "head": {
        "role": "head", "files": FILES, "boto3": "boto3==1.44.0", "data_volume": "vol-0123456789abcdef0",
        "head_idle_minutes": 60, "parameters": {"COMET_API_KEY": "/me/comet"},
    },
    "worker": {**WORKER, "files": FILES, "boto3": "boto3==1.44.0", "index_url": "https://packages.example.org/simple"},
    "worker-with-python": {
        **WORKER, "python": "/opt/env/bin/python", "environment_file": "/etc/tuneyard.env", "idle_minutes": None,
    },
}  # fmt: skip
"""The scripts that are kept as golden files."""


def render(folder: Path, cases: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The script of each case; `folder` is Terraform's to work in."""
    module = {"source": str(SOURCE / "modules/boot")}
    (folder / "main.tf.json").write_text(
        json.dumps(
            {
                "module": {name: {**module, **COMMON, **_given(case)} for name, case in cases.items()},
                "output": {name: {"value": f"${{module.{name}.script}}"} for name in cases},
            }
        )
    )
    _terraform(folder, "init", "-input=false")
    _terraform(folder, "apply", "-auto-approve", "-input=false")
    found = json.loads(_terraform(folder, "output", "-json"))
    return {name: found[name]["value"] for name in cases}


def _given(case: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in case.items() if value is not None}


def _terraform(folder: Path, *words: str) -> str:
    done = subprocess.run(
        ["terraform", words[0], "-no-color", *words[1:]], cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, "CHECKPOINT_DISABLE": "1"}, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        for name, text in render(Path(scratch), CASES).items():
            (GOLDEN / f"{name}.sh").write_text(text)
