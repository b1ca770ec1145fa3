#!/bin/sh
# On the host: FOLDER PYTHON WHEEL CONSTRAINTS. Makes FOLDER/env with the wheel and what it needs, anew where it differs.
set -eu
folder=$1 python=$2 wheel=$3 constraints=$4
umask 077
wanted=$("$python" --version 2>&1 | cat - "$wheel" "$constraints" | sha256sum)
if [ -e "$folder/env/made-of" ] && [ "$(cat "$folder/env/made-of")" = "$wanted" ]; then
  exit 0
fi
# Nothing may run from an environment that changes under it.
if [ -e "$folder/node.json" ] && [ -x "$folder/env/bin/python" ]; then
  "$folder/env/bin/python" -m tuneyard.cluster.node stop --folder "$folder"
  rm -f "$folder/node.json"
fi
rm -rf "$folder/env"
"$python" -m venv "$folder/env"
"$folder/env/bin/python" -m pip install --quiet --disable-pip-version-check --constraint "$constraints" "$wheel"
echo "$wanted" >"$folder/env/made-of"
