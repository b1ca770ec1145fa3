#!/usr/bin/env bash
# The first boot of a head of the Ray cluster lab; cloud-init runs it as root. It holds no secret: the node
# fetches its token by its role. It may be run again by hand.
set -euo pipefail

folder=/opt/tuneyard/lab
python=/opt/tuneyard/lab/env/bin/python
metadata=http://169.254.169.254/latest
log=$folder/logs/boot.log
scratch=
instance=

metadata() { # metadata PATH: what the instance's metadata service (IMDSv2) has there
    local session
    session=$(curl -fsS --noproxy '*' --max-time 5 --retry 5 --retry-connrefused -X PUT \
        -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' "$metadata/api/token")
    curl -fsS --noproxy '*' --max-time 5 --retry 5 -H @- "$metadata/meta-data/$1" <<<"X-aws-ec2-metadata-token: $session"
}

patiently() { # patiently COMMAND…: again after a while, since a network may be slow to come up
    local pause
    for pause in 5 15 45; do
        "$@" && return
        sleep "$pause"
    done
    "$@"
}

end() { # A machine that did not become a node costs as much as one that works.
    local status=$?
    [ "$status" -ne 0 ] || return 0
    echo "tuneyard: this machine did not become a node of lab (exit $status). Its log: $log" >&2
    send_log || true
    exit "$status"
}

send_log() {
    "$python" - "$log" 'tuneyard-lab-1' "tuneyard/logs/lab/$instance.log" eu-central-1 <<'END'
import sys
import boto3
log, bucket, key, region = sys.argv[1:]
boto3.client("s3", region_name=region).upload_file(log, bucket, key)
print(f"tuneyard: sent to s3://{bucket}/{key}")
END
}

mount_data() { # the data disk, which is attached when the machine runs already; it may have a file system from before
    local disk=/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_vol0123456789abcdef0 tries=0
    until [ -e "$disk" ]; do
        tries=$((tries + 1))
        [ "$tries" -le 150 ] || { echo "tuneyard: the data disk is not attached after 300 s" >&2; return 1; }
        sleep 2
    done
    [ -n "$(blkid -o value -s TYPE "$disk")" ] || mkfs.ext4 -q -m 0 "$disk"
    keep_mounted "$disk" /data ext4 defaults,noatime
    scratch=/data
}

keep_mounted() { # keep_mounted DEVICE FOLDER TYPE OPTIONS: now and after each boot, before the node's service
    mkdir -p "$2"
    grep -q " $2 " /etc/fstab || echo "$1 $2 $3 $4,nofail,x-systemd.before=tuneyard-lab.service 0 0" >>/etc/fstab
    mountpoint -q "$2" || mount "$2"
}

make_environment() {
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        echo "tuneyard: Python 3.11 or newer is needed; the image has $(python3 --version)" >&2
        return 1
    }
    if ! python3 -c 'import ensurepip' 2>/dev/null; then
        patiently apt-get -qq update
        DEBIAN_FRONTEND=noninteractive patiently apt-get -qq -y -o DPkg::Lock::Timeout=300 install python3-venv
    fi
    python3 -m venv "$folder/env"
    patiently install_packages boto3==1.44.0
    patiently fetch_package
    cd "$folder/package"
    sha256sum --check --quiet <<'END'
bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb  constraints.txt
aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa  tuneyard-0.1.0-py3-none-any.whl
END
    patiently install_packages --constraint constraints.txt ./tuneyard-0.1.0-py3-none-any.whl
}

install_packages() {
    "$folder/env/bin/pip" --quiet --disable-pip-version-check install --no-cache-dir "$@"
}

fetch_package() {
    mkdir -p "$folder/package"
    "$python" - 'tuneyard-lab-1' eu-central-1 "$folder/package" 'tuneyard/packages/0123456789abcdef/constraints.txt' 'tuneyard/packages/0123456789abcdef/tuneyard-0.1.0-py3-none-any.whl' <<'END'
import pathlib
import sys
import boto3
bucket, region, folder, *keys = sys.argv[1:]
for key in keys:
    name = pathlib.Path(folder, key.rpartition("/")[2])
    boto3.client("s3", region_name=region).download_file(bucket, key, str(name))
END
}

write_config() { # what the apply cannot know is added here
    "$python" -c '
import json, sys
config = json.load(sys.stdin)
config["name"], config["address"], config["scratch"] = (word or None for word in sys.argv[1:])
print(json.dumps(config, indent=1))' "head" "$(metadata local-ipv4)" "$scratch" >"$folder/node.json" <<'END'
{"autoscaling_group":null,"cluster":"lab","dashboard_port":8265,"environment_file":null,"gcs_port":6379,"head":"","head_idle_minutes":60,"idle_minutes":null,"kind":"aws","num_gpus":0,"parameters":{"COMET_API_KEY":"/me/comet"},"region":"eu-central-1","role":"head","token_parameter":"/tuneyard/lab/token"}
END
}

mkdir -p "$(dirname "$folder")"
(umask 077 && mkdir -p "$folder/logs")
exec > >(tee -a "$log") 2>&1
trap end EXIT
instance=$(metadata instance-id)
mount_data
make_environment
write_config
"$python" -m tuneyard.cluster.node check --folder "$folder"
"$python" -m tuneyard.cluster.node start --folder "$folder"
