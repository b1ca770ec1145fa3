#!/bin/sh
# On the host: FOLDER NAME. Makes a key in the folder, and prints the request for its certificate.
set -eu
folder=$1
umask 077
mkdir -p "$folder"
command -v openssl >/dev/null || {
  echo "problem: openssl is not installed, and TLS needs it" >&2
  exit 1
}
openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -sha256 -subj "/CN=$2" \
  -keyout "$folder/node.key" 2>/dev/null
