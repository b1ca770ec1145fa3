#!/usr/bin/env bash
# Looks whether the host can be reached, and can be a node; changes nothing there.
set -euo pipefail
source "$(dirname "$0")/connect.sh"
asked=$PYTHON
[ "$PACKAGE" = - ] || asked=$BASE_PYTHON
script_on_host check.sh "$FOLDER" "$asked" "$PACKAGE" "$VERSION" || fail "$HOST cannot be a node as it is"
