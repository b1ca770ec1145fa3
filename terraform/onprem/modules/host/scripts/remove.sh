#!/usr/bin/env bash
# Ends all that runs for the cluster on the host, and removes its folder there.
set -euo pipefail
source "$(dirname "$0")/connect.sh"
case " ${TUNEYARD_GONE:-} " in
  *" $NAME "*)
    say "$HOST is gone for good, you say (TUNEYARD_GONE): nothing is done there"
    exit 0
    ;;
esac
OTHERWISE="A machine that is gone for good: TUNEYARD_GONE=\"$NAME\" terraform apply, or destroy."
script_on_host remove.sh "$FOLDER" "$PYTHON" ||
  fail "$FOLDER on $HOST is still there, and may run. Mend that and destroy again. $OTHERWISE"
say "nothing of the cluster is left on $HOST"
