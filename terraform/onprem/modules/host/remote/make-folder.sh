#!/bin/sh
# On the host: FOLDER NAME. Makes the cluster's folder, its owner's alone; the file .tuneyard says that it may be removed.
set -eu
folder=$1
umask 077
if [ ! -e "$folder" ]; then
  # The parent is everybody's to pass through: /opt/tuneyard may hold another user's cluster.
  (umask 022 && mkdir -p "$(dirname "$folder")") 2>/dev/null || sudo -n mkdir -p "$(dirname "$folder")"
  mkdir "$folder" 2>/dev/null || sudo -n install -d -m 0700 -o "$(id -un)" -g "$(id -gn)" "$folder"
fi
chmod 0700 "$folder"
echo "The cluster's node $2. Removed by terraform destroy." >"$folder/.tuneyard"
