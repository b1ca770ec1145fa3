#!/usr/bin/env bash
# The first boot of a worker of the Ray cluster lab; cloud-init runs it as root. It holds no secret: the node
# fetches its token by its role. It may be run again by hand.
set -euo pipefail

folder=/opt/tuneyard/lab
python=/opt/env/bin/python
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

mount_scratch() { # local NVMe, where the machine has it; the Deep Learning AMI has made one volume of it by itself
    if systemctl cat dlami-nvme.service >/dev/null 2>&1; then
        systemctl start dlami-nvme.service || true
    fi
    if mountpoint -q /opt/dlami/nvme; then
        keep_mounted /opt/dlami/nvme /scratch none bind,x-systemd.requires=dlami-nvme.service
    elif ! mountpoint -q /scratch; then
        local disk disks=()
        for disk in $(lsblk --nodeps --noheadings --paths --output NAME,MODEL | awk '/Instance Storage/ { print $1 }'); do
            # Only blank ones: no file system, no partitions, in no volume.
            [ -n "$(lsblk --noheadings --output FSTYPE,PTTYPE,MOUNTPOINT "$disk" | tr -d '[:space:]')" ] || disks+=("$disk")
        done
        [ "${#disks[@]}" -gt 0 ] || return 0
        disk=${disks[0]}
        if [ "${#disks[@]}" -gt 1 ]; then
            disk=/dev/md/scratch
            mdadm --create "$disk" --run --level=0 --raid-devices="${#disks[@]}" "${disks[@]}"
        fi
        mkfs.ext4 -q -m 0 -L tuneyard "$disk"
        keep_mounted LABEL=tuneyard /scratch ext4 defaults,noatime
    fi
    scratch=/scratch
    # The decoded cache of all trials lies under the home folder, and belongs on the fastest disk.
    mkdir -p /scratch/cache /root/.cache
    ln -sfn /scratch/cache /root/.cache/tuneyard
}

keep_mounted() { # keep_mounted DEVICE FOLDER TYPE OPTIONS: now and after each boot, before the node's service
    mkdir -p "$2"
    grep -q " $2 " /etc/fstab || echo "$1 $2 $3 $4,nofail,x-systemd.before=tuneyard-lab.service 0 0" >>/etc/fstab
    mountpoint -q "$2" || mount "$2"
}

write_config() { # what the apply cannot know is added here
    "$python" -c '
import json, sys
config = json.load(sys.stdin)
config["name"], config["address"], config["scratch"] = (word or None for word in sys.argv[1:])
print(json.dumps(config, indent=1))' "$instance" "$(metadata local-ipv4)" "$scratch" >"$folder/node.json" <<'END'
{"autoscaling_group":"tuneyard-lab-gpu","cluster":"lab","dashboard_port":8265,"environment_file":"/etc/tuneyard.env","gcs_port":6379,"head":"10.64.0.10","head_idle_minutes":null,"idle_minutes":null,"kind":"aws","num_gpus":null,"parameters":{},"region":"eu-central-1","role":"worker","token_parameter":"/tuneyard/lab/token"}
END
}

mkdir -p "$(dirname "$folder")"
(umask 077 && mkdir -p "$folder/logs")
exec > >(tee -a "$log") 2>&1
trap end EXIT
instance=$(metadata instance-id)
mount_scratch
write_config
"$python" -m tuneyard.cluster.node check --folder "$folder"
"$python" -m tuneyard.cluster.node start --folder "$folder"
