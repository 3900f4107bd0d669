#!/usr/bin/env bash
# Prints a directory with a device to boot: Debian 12 with systemd and no Docker.
#   vmlinuz, initrd, root.qcow2   for qemu-system-x86_64, console on ttyS0, QEMU guest agent inside
# By hand, as root:  dir=$(scripts/vm-image.sh)
# It is made once (some minutes, network), into ${VALISE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/valise}/vm/HASH.
set -euo pipefail

self=${BASH_SOURCE[0]}
key=$(sha256sum "$self" | cut -c1-16)
cache=${VALISE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/valise}/vm
dir=$cache/$key

[ "$(id -u)" = 0 ] || { echo "vm-image: run as root" >&2; exit 1; }
mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9
if [ ! -d "$dir" ]; then
  for tool in qemu-system-x86_64 qemu-img mmdebstrap mkfs.ext4; do
    command -v "$tool" >/dev/null && continue
    echo "vm-image: installing QEMU and mmdebstrap" >&2
    apt-get update -qq >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
      qemu-system-x86 qemu-utils mmdebstrap e2fsprogs dosfstools exfatprogs >&2
    break
  done
  echo "vm-image: making a Debian device, this takes some minutes once" >&2
  work=$(mktemp -d "$cache/work.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  chmod 755 "$work" # apt downloads as a user of its own
  mkdir "$work/out"
  # A small initrd: only what finds the root disk. dhclient, fsck of a fresh file system and the like are left out.
  # shellcheck disable=SC2016 # $1 is for the hooks
  "$(dirname "$self")/mmdebstrap.sh" --variant=minbase --architectures=amd64 --aptopt='Acquire::Languages "none"' \
    --include=systemd-sysv,udev,dbus,kmod,iproute2,linux-image-amd64,initramfs-tools,zstd,e2fsprogs,qemu-guest-agent,procps \
    --customize-hook='printf "%s\n" virtio_pci virtio_blk ext4 crc32c_generic >>"$1/etc/initramfs-tools/modules"' \
    --customize-hook='sed -i -e s/^MODULES=.*/MODULES=list/ -e s/^COMPRESS=.*/COMPRESS=zstd/ "$1/etc/initramfs-tools/initramfs.conf"' \
    --customize-hook='chroot "$1" update-initramfs -u -k all' \
    --customize-hook='echo device >"$1/etc/hostname"; echo "127.0.0.1 localhost device" >"$1/etc/hosts"; sed -i "s/^root:[^:]*:/root::/" "$1/etc/shadow"' \
    --customize-hook='echo "/dev/vda / ext4 defaults 0 1" >"$1/etc/fstab"' \
    --customize-hook='for u in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer systemd-timesyncd.service; do chroot "$1" systemctl mask $u; done' \
    --customize-hook='rm -f "$1"/var/cache/apt/archives/*.deb' \
    --customize-hook='rm -rf "$1"/var/cache/apt/archives/*.deb "$1"/var/lib/apt/lists/* "$1"/usr/share/doc "$1"/usr/share/locale' \
    bookworm "$work/root.tar" >&2
  mkdir "$work/root"
  tar -C "$work/root" -xf "$work/root.tar"
  cp -L "$work"/root/boot/vmlinuz-* "$work/out/vmlinuz"
  cp -L "$work"/root/boot/initrd.img-* "$work/out/initrd"
  rm -f "$work"/root/boot/initrd* # the machine boots the one outside
  truncate -s 6G "$work/root.ext4"
  mkfs.ext4 -q -F -d "$work/root" "$work/root.ext4"
  qemu-img convert -O qcow2 "$work/root.ext4" "$work/out/root.qcow2"
  mv "$work/out" "$dir"
fi
echo "$dir"
