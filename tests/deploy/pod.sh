#!/bin/sh
# Become what a manifest describes: pod.sh FOLDER USER:GROUP MOUNTS PARENTS COMMAND...
# Run in mount, process and network namespaces of its own. MOUNTS has a line "ro PATH SOURCE" or "rw PATH GROUP" for
# each volume, PARENTS the folders that another user must be able to walk through to reach the code. The root is
# an overlay over this machine's, read-only but for the volumes.
set -eu
folder=$1 user=$2 mounts=$3 parents=$4
shift 4

ip link set lo up
mount -t tmpfs tmpfs "$folder"
mkdir "$folder/upper" "$folder/work" "$folder/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$folder/upper,workdir=$folder/work" "$folder/root"
for parent in $parents; do
    chmod o+rx "$folder/root$parent"
done
while read -r kind path what; do
    mkdir -p "$folder/root$path"
    if [ "$kind" = ro ]; then
        mount --bind "$what" "$folder/root$path"
        mount -o remount,bind,ro "$folder/root$path"
    else
        mount -t tmpfs -o "gid=$what,mode=2770" tmpfs "$folder/root$path"
    fi
done <"$mounts"
mount --rbind /dev "$folder/root/dev"
mount -t proc proc "$folder/root/proc"
mount -o remount,ro "$folder/root"
exec chroot "$folder/root" setpriv --reuid "${user%:*}" --regid "${user#*:}" --clear-groups --no-new-privs \
    --bounding-set -all --inh-caps -all "$@"
