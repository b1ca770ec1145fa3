# Sourced by the other scripts: how to reach the host, as cluster/access/ssh.py does it. "-" stands for what is not given.
# shellcheck shell=bash
umask 077
common=(-o BatchMode=yes -o StrictHostKeyChecking=yes -o ConnectTimeout=10
  -o ServerAliveInterval=5 -o ServerAliveCountMax=3)
[ "$KEY_FILE" = - ] || common+=(-i "$KEY_FILE" -o IdentitiesOnly=yes)
[ "$KNOWN_HOSTS" = - ] || common+=(-o "UserKnownHostsFile=$KNOWN_HOSTS")
options=("${common[@]}" -p "$PORT")
if [ "$JUMP" != - ]; then
  # ssh -J reads the user's configuration only; the key and the known hosts are for the jump host as well.
  jump_user=${JUMP%@*} jump_place=${JUMP##*@}
  [ "$jump_user" != "$JUMP" ] || jump_user=$SSH_USER
  jump_port=${jump_place##*:}
  [ "$jump_port" != "$jump_place" ] || jump_port=22
  options+=(-o "ProxyCommand=ssh $(printf '%q ' "${common[@]}" -p "$jump_port")-W %h:%p $jump_user@${jump_place%%:*}")
fi

say() { echo "$NAME: $*"; }

fail() {
  say "$*" >&2
  exit 1
}

# on_host COMMAND…: run a command there; its standard input is ours.
on_host() {
  local status=0
  # shellcheck disable=SC2029  # the words are quoted for the host's shell
  ssh "${options[@]}" "$SSH_USER@$HOST" "$(printf '%q ' "$@")" || status=$?
  [ "$status" -ne 255 ] || fail "$SSH_USER@$HOST cannot be reached over SSH: the reason is above. Its key must be in" \
    "known_hosts (see it: ssh-keyscan -p $PORT $HOST), and yours in its authorized_keys. ${OTHERWISE:-}"
  return "$status"
}

# script_on_host FILE ARGUMENT…: run a file of the folder `remote` there, in its plain shell.
script_on_host() {
  local file=$1
  shift
  on_host sh -s -- "$@" <"$(dirname "${BASH_SOURCE[0]}")/../remote/$file"
}

# put FILE PATH: write a file there, of mode 0600, all of it or nothing; its content is in no command line.
put() {
  # shellcheck disable=SC2016  # the host's shell expands them
  on_host sh -c 'umask 077; cat >"$1.new" && mv -f "$1.new" "$1"' put "$2" <"$1"
}
