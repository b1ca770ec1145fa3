"""The main job on this machine: a sweep over real images, its checkpoints in an S3 server of the demo's own.

`make demo` runs it. Everything it makes lies under runs/demo.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

from tuneyard.cluster.seaweedfs import SeaweedError, SeaweedServer

EXAMPLES = Path(__file__).parent
BUCKET = "tuneyard-demo"


def main() -> int:
    """Exit status of the sweep, or 2 where the S3 server does not start."""
    folder = Path("runs/demo").absolute()
    try:
        with SeaweedServer(folder / "s3") as server:
            server.create_bucket(BUCKET)
            print(f"S3 server (SeaweedFS) at {server.endpoint_url}, bucket {BUCKET}", flush=True)
            status = sweep(server, folder)
    except SeaweedError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    print(f"S3 server stopped; the bucket's data stay in {folder / 's3'}")
    archives = sorted((folder / "tracking").rglob("*.zip"))
    print(f"Comet archives: {len(archives)} in {archives[0].parent if archives else folder / 'tracking'}")
    return status


def sweep(server: SeaweedServer, folder: Path) -> int:
    """Run `tuneyard tune` as a user would, with the server's address and keys."""
    # A Ctrl-C in the terminal reaches the sweep too: it saves and leaves, and only then may the server stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    command = [
        sys.executable, "-m", "tuneyard.launch", "tune", str(EXAMPLES / "digits_sweep.yaml"),
        f"checkpoint.store=s3://{BUCKET}/sweeps", f"checkpoint.endpoint_url={server.endpoint_url}",
        "checkpoint.region=us-east-1", f"tracking.directory={folder / 'tracking'}",
    ]  # fmt: skip
    keys = {"AWS_ACCESS_KEY_ID": server.access_key, "AWS_SECRET_ACCESS_KEY": server.secret_key}
    return subprocess.run(command, env=os.environ | keys, check=False, preexec_fn=_hear_ctrl_c).returncode


def _hear_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)


if __name__ == "__main__":
    sys.exit(main())
