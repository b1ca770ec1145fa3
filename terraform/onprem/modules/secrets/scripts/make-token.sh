#!/usr/bin/env bash
# Makes Ray's token at TOKEN_FILE, of mode 0600, unless it is there; then it must be its owner's alone.
set -euo pipefail
umask 077
if [ -e "$TOKEN_FILE" ]; then
  case $(ls -lLd -- "$TOKEN_FILE") in
    -???------*) exit 0 ;;
  esac
  echo "$TOKEN_FILE may be read by others. Do: chmod 600 $TOKEN_FILE" >&2
  exit 1
fi
mkdir -p "$(dirname "$TOKEN_FILE")"
od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$TOKEN_FILE.new"
mv "$TOKEN_FILE.new" "$TOKEN_FILE"
