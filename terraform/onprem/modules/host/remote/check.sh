#!/bin/sh
# On the host: FOLDER PYTHON PACKAGE VERSION ("-" for none). Prints every problem; changes nothing.
set -u
folder=$1 python=$2 package=$3 version=$4
failed=0
problem() {
  echo "problem: $*" >&2
  failed=1
}

if ! command -v "$python" >/dev/null; then
  problem "$python is not there: install Python 3.11 or newer, or name another one"
elif ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  problem "$python is $("$python" --version 2>&1), and 3.11 or newer is needed"
elif [ "$package" != - ] && ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
  problem "$python cannot make environments: install its venv module (Debian: python3-venv)"
elif [ "$package" = - ]; then
  found=$("$python" -c 'from importlib.metadata import version as v; print(v("tuneyard"))' 2>/dev/null) || found=none
  if [ "$found" = none ]; then
    problem "$python has no tuneyard: install it there, or give package instead of python"
  elif [ "$version" != - ] && [ "$found" != "$version" ]; then
    problem "$python has tuneyard $found, and $version is wanted: install that there"
  fi
fi

place=$folder
while [ ! -e "$place" ]; do place=$(dirname "$place"); done
needed=1
[ "$package" = - ] || needed=10
free=$(df -Pk "$place" | awk 'NR == 2 {print int($4 / 1000000)}')
[ "$free" -ge "$needed" ] || problem "$place has $free GB free, and $needed GB are needed"
if [ -e "$folder" ] && [ ! -e "$folder/.tuneyard" ]; then
  problem "$folder is there already and is not a cluster's: name another folder, or remove it"
elif [ ! -w "$place" ] && ! sudo -n true 2>/dev/null; then
  problem "$(id -un) may not make $folder, and has no sudo without a password: name a folder of its own"
fi
exit "$failed"
