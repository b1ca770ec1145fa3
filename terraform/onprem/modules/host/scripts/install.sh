#!/usr/bin/env bash
# Makes the cluster's folder on the host and, where a package is given, the environment with it.
set -euo pipefail
source "$(dirname "$0")/connect.sh"
script_on_host make-folder.sh "$FOLDER" "$NAME"
[ "$PACKAGE" != - ] || exit 0
wheel="$FOLDER/$(basename "$PACKAGE")"
put "$PACKAGE" "$wheel"
pins=/dev/null
if [ "$CONSTRAINTS" != - ]; then
  pins="$FOLDER/constraints.txt"
  put "$CONSTRAINTS" "$pins"
fi
say "installing $(basename "$PACKAGE") with what it needs; some minutes"
script_on_host install.sh "$FOLDER" "$BASE_PYTHON" "$wheel" "$pins" || fail "the installation on $HOST failed"
