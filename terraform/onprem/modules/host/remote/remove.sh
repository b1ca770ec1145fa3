#!/bin/sh
# On the host: FOLDER PYTHON. Ends the node and removes the folder; no error where there is none.
set -eu
folder=$1 python=$2
[ -e "$folder" ] || exit 0
if [ ! -e "$folder/.tuneyard" ]; then
  echo "problem: $folder is not a cluster's, as it holds no file .tuneyard: it is left alone" >&2
  exit 1
fi
if [ -e "$folder/node.json" ]; then
  command -v "$python" >/dev/null || {
    echo "problem: $python is not there any more, and it is what stops the node" >&2
    exit 1
  }
  "$python" -m tuneyard.cluster.node stop --folder "$folder"
fi
parent=$(dirname "$folder")
rm -rf "$folder" 2>/dev/null || sudo -n rm -rf "$folder"
rmdir "$parent" 2>/dev/null || true
