#!/usr/bin/env bash
# Gives the host what its node's program needs, the token and a certificate among it, and starts it as a service.
set -euo pipefail
source "$(dirname "$0")/connect.sh"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

printf '%s\n' "$NODE_JSON" >"$work/node.json"
put "$work/node.json" "$FOLDER/node.json"
put "$TOKEN_FILE" "$FOLDER/token"
if [ "$AUTHORITY" != - ]; then
  # The key is made on the host and stays there; its request comes here, and the certificate goes there.
  script_on_host make-key.sh "$FOLDER/tls" "$NAME" >"$work/request" || fail "no key could be made on $HOST"
  printf 'subjectAltName=IP:%s,IP:127.0.0.1,DNS:localhost\nextendedKeyUsage=serverAuth,clientAuth\n' "$ADDRESS" \
    >"$work/extensions"
  openssl x509 -req -in "$work/request" -CA "$AUTHORITY/ca.crt" -CAkey "$AUTHORITY/ca.key" -sha256 -days 3650 \
    -set_serial "0x$(openssl rand -hex 16)" -extfile "$work/extensions" -out "$work/certificate" 2>"$work/said" ||
    fail "the certificate was not made: $(cat "$work/said")"
  put "$work/certificate" "$FOLDER/tls/node.crt"
  put "$AUTHORITY/ca.crt" "$FOLDER/tls/ca.crt"
fi

on_host "$PYTHON" -m tuneyard.cluster.node check --folder "$FOLDER" </dev/null || fail "$HOST cannot be a node as it is"
on_host "$PYTHON" -m tuneyard.cluster.node start --folder "$FOLDER" --within-s "$START_WITHIN_S" </dev/null ||
  fail "Ray did not start on $HOST"
