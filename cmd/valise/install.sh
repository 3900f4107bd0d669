#!/bin/sh
# Installs @APP@ @VERSION@ on this machine:
#
#   sudo sh install.sh [BUNDLE] [ARGUMENTS OF valise-installer install]
#
# It takes the installer for this machine out of BUNDLE, compares it with the
# SHA-256 below, and lets it do the rest: the installer verifies the whole bundle
# before anything of it is used. BUNDLE is @BUNDLE@ beside this script when it is
# not given. It needs sh, tar, gzip and sha256sum.
#
# This script is the first thing you run, so it is what you have to trust. Check
# it on a computer of yours, with the release's signature:
#   valise verify @BUNDLE@ ...     and compare: tar -xzOf @BUNDLE@ install.sh | cmp - install.sh
set -eu

installers='@INSTALLERS@'

fail() {
  echo "install.sh: $1" >&2
  [ -z "${2-}" ] || echo "hint: $2" >&2
  exit 1
}

bundle=$(dirname "$0")/@BUNDLE@
case ${1-} in
'' | -*) ;;
*)
  bundle=$1
  shift
  ;;
esac
[ "$(id -u)" = 0 ] || fail "it must run as root" "sudo sh $0 $bundle"

machine=$(uname -m)
# A 64-bit kernel may run a 32-bit system: what its programs are counts.
if command -v dpkg >/dev/null 2>&1; then
  case $(dpkg --print-architecture) in
  armhf) machine=armv7l ;;
  esac
fi
case $machine in
x86_64 | amd64) platform=linux-amd64 ;;
aarch64 | arm64) platform=linux-arm64 ;;
armv7* | armv8l) platform=linux-arm-v7 ;;
*) fail "there is no installer for a machine of type $machine" ;;
esac
digest=$(echo "$installers" | sed -n "s/^$platform //p")
[ -n "$digest" ] || fail "this release has no installer for $platform" "it has: $(echo "$installers" | cut -d' ' -f1 | tr '\n' ' ')"

if [ -f "$bundle" ]; then
  read_bundle() { cat "$bundle"; }
  set -- "$bundle" "$@"
elif [ -f "$bundle.001" ]; then # one bundle in several files
  read_bundle() { for part in "$bundle".[0-9][0-9][0-9]; do cat "$part"; done; }
  set -- "$bundle.001" "$@"
else
  fail "there is no $bundle" "name the bundle: sudo sh $0 /path/to/BUNDLE"
fi

# Programs may not be allowed to run in some of these (noexec).
dir=
trap '[ -z "$dir" ] || rm -rf "$dir"' EXIT
trap 'exit 1' HUP INT TERM
for place in ${TMPDIR:+"$TMPDIR"} /var/tmp /opt /var/lib /root /tmp; do
  dir=$(mktemp -d "$place/valise.XXXXXX" 2>/dev/null) || continue
  echo '#!/bin/sh' >"$dir/try"
  chmod 0755 "$dir/try"
  ! "$dir/try" 2>/dev/null || break
  rm -rf "$dir"
  dir=
done
[ -n "$dir" ] || fail "no program may run in /var/tmp, /opt, /var/lib, /root or /tmp" "name a directory that is not mounted noexec: sudo TMPDIR=DIRECTORY sh $0 $bundle"
# Whatever comes out must have the digest.
for unpack in 'tar -xzOf -' 'tar -xOf -' 'tar --zstd -xOf -'; do
  read_bundle | $unpack "@PREFIX@installer/$platform/valise-installer" >"$dir/valise-installer" 2>/dev/null && break
done
[ -s "$dir/valise-installer" ] || fail "the installer cannot be read from $bundle" "is it complete, with all its parts? copy it again; a .tar.zst needs zstd"
echo "$digest  $dir/valise-installer" | sha256sum -c - >/dev/null 2>&1 ||
  fail "the installer in $bundle is not the one this script belongs to" "take bundle and script from the same release"
chmod 0755 "$dir/valise-installer"
"$dir/valise-installer" install "$@"
