#!/usr/bin/env bash
# Makes the authority of the cluster's certificates, ca.key and ca.crt, in the folder AUTHORITY of mode 0700.
set -euo pipefail
umask 077
mkdir -p "$AUTHORITY"
[ -e "$AUTHORITY/ca.crt" ] && exit 0
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -sha256 -days 3650 -subj "/CN=tuneyard $NAME" \
  -keyout "$AUTHORITY/ca.key" -out "$AUTHORITY/ca.crt.new" 2>/dev/null
mv "$AUTHORITY/ca.crt.new" "$AUTHORITY/ca.crt"
