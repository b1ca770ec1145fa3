"""`python -m tuneyard.cluster.node.listing --folder FOLDER`, on the head: its nodes as JSON, with what they are up to.

Ray's dashboard does not tell who is draining, nor who left on purpose.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from tuneyard.cluster.errors import ClusterError
from tuneyard.cluster.node.config import read_config
from tuneyard.cluster.node.folder import NodeFolder
from tuneyard.cluster.node.gcs import connect


def main() -> int:
    """Print the nodes; 1 where the head does not answer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    folder = NodeFolder(parser.parse_args().folder)
    try:
        gcs = connect(read_config(folder.path), folder)
        try:
            print(json.dumps([asdict(node) for node in gcs.nodes()]))  # noqa: T201 - this is its answer
        finally:
            gcs.close()
    except ClusterError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
