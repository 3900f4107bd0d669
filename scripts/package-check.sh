#!/usr/bin/env bash
# Checks the .deb and .rpm files of a release: what is in them, and that they can be installed on a clean machine, used
# and removed without a trace. The machine is a Debian 12 from scripts/systemd.sh; rpm gets an empty directory.
# By hand, as root:  scripts/package-check.sh DIR VERSION      (scripts/release-check.sh does it; Debian package: rpm)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() { echo "package-check: $*" >&2; exit 1; }
[ $# -eq 2 ] || { echo "usage: package-check.sh DIR VERSION" >&2; exit 64; }
from=$(realpath -- "$1") version=$2
[ "$(id -u)" -eq 0 ] || fail "packages are installed on a machine of their own: run this as root"
command -v rpm >/dev/null || fail "rpm is missing: apt-get install rpm"

dir=$(mktemp -d /tmp/valise-packages.XXXXXX)
trap 'scripts/systemd.sh down "$dir/debian"; rm -rf "$dir"' EXIT

# files PROGRAM: every file of its package.
files() {
  printf '/usr/%s\n' "bin/$1" "share/bash-completion/completions/$1" "share/doc/$1/copyright" \
    "share/fish/vendor_completions.d/$1.fish" "share/zsh/vendor-completions/_$1"
  [ "$1" != valise ] || printf '/usr/lib/valise/installer/%s/valise-installer\n' linux-amd64 linux-arm64 linux-arm-v7
  tar -tf "$from/valise-$version-linux-amd64.tar.gz" | sed -n "s|.*/man/|/usr/share/man/man1/|p" | grep "/$1[-.]" || true
}
# same NAME WANT GOT: two lists of lines.
same() { diff <(sort <<<"$2") <(sort <<<"$3") >&2 || fail "$1: another list of files than expected (above)"; }

shopt -s nullglob
debs=("$from"/*.deb) rpms=("$from"/*.rpm)
[ "${#debs[@]} ${#rpms[@]}" = "6 6" ] || fail "want 6 .deb and 6 .rpm, got ${#debs[@]} and ${#rpms[@]}"
for deb in "${debs[@]}"; do
  program=$(dpkg-deb --field "$deb" Package)
  got=$(dpkg-deb --fsys-tarfile "$deb" | tar -tf - | grep -v '/$' | sed 's|^\./|/|')
  grep -q '^/usr/share/man/man1/' <<<"$got" || fail "$deb has no manual page"
  same "$deb" "$(files "$program" | grep -v /man/)" "$(grep -v /man/ <<<"$got")"
  [ "$(dpkg-deb --ctrl-tarfile "$deb" | tar -tf - | sed 's|^\./||' | grep -cE '^(pre|post)(inst|rm)$' || true)" = 0 ] || fail "$deb runs scripts"
  printf '%s %s %s\n' "$program" "$(dpkg-deb --field "$deb" Version)" "$(dpkg-deb --field "$deb" Architecture)"
done >"$dir/debs"
for rpm in "${rpms[@]}"; do
  rpm -K --nosignature "$rpm" >"$dir/out" || fail "$rpm: $(cat "$dir/out")"
  got=$(rpm -qpl "$rpm") program=$(rpm -qp --queryformat '%{NAME}' "$rpm")
  grep -q '^/usr/share/man/man1/' <<<"$got" || fail "$rpm has no manual page"
  same "$rpm" "$(files "$program" | grep -v /man/)" "$(grep -v /man/ <<<"$got")"
  [ -z "$(rpm -qp --scripts "$rpm")" ] || fail "$rpm runs scripts"
done
echo "debs:"; cat "$dir/debs"

debian() { scripts/systemd.sh run "$dir/debian" "$@"; }
scripts/systemd.sh up "$dir/debian"
arch=$(dpkg --print-architecture)
for program in valise valise-installer; do
  cp "$from/${program}_${version}_${arch}.deb" "$dir/debian/root/root/$program.deb"
  debian dpkg -i "/root/$program.deb" >"$dir/out" 2>&1 || fail "dpkg -i: $(cat "$dir/out")"
  debian "$program" --help | grep '^Usage:' >/dev/null || fail "$program --help has no usage"
  debian "$program" --version | grep -F "$version" >/dev/null || fail "$program is another version"
  # What a shell does at the tab key, after the script was read.
  debian bash -c "source /usr/share/bash-completion/completions/$program && complete -p $program" >"$dir/out" || fail "bash does not take the completion of $program"
  debian "$program" __complete ver 2>/dev/null | grep . >/dev/null || fail "$program completes nothing"
  mapfile -t installed < <(debian dpkg -L "$program" | grep -vxF /.)
  [ -s "$dir/debian/root/usr/share/man/man1/$program.1" ] || fail "no manual page of $program"
  if [ "$program" = valise ]; then # bundles install themselves, without a network
    cp -r examples/hello "$dir/debian/root/root/hello"
    sed -i '/^installer:/d' "$dir/debian/root/root/hello/valise.yaml"
    debian valise build 1.0.0 --project /root/hello/valise.yaml -o /root/hello.tar.gz >"$dir/out" 2>&1 || fail "valise build: $(cat "$dir/out")"
    debian valise inspect /root/hello.tar.gz | grep "^installer  *$version linux/amd64, $version linux/arm64, $version linux/arm/v7$" >/dev/null || fail "valise build takes no installer of its package"
  fi
  debian dpkg --purge "$program" >"$dir/out" 2>&1 || fail "dpkg --purge: $(cat "$dir/out")"
  for path in "${installed[@]}"; do
    if [ -f "$dir/debian/root$path" ]; then fail "dpkg --purge left $path"; fi
  done
  ! debian dpkg -s "$program" >/dev/null 2>&1 || fail "$program is still known to dpkg"
done

for program in valise valise-installer; do
  root=$dir/$program.rpm
  mkdir "$root"
  # Debian's rpm says that it should not be used.
  rpm --root "$root" -i --nodeps --ignorearch "$from/${program}_${version}_${arch}.rpm" 2>"$dir/out" || fail "rpm -i: $(cat "$dir/out")"
  "$root/usr/bin/$program" --version | grep -F "$version" >/dev/null || fail "$program of the .rpm is another version"
  rpm --root "$root" -e "$program"
  left=$(find "$root/usr" -type f -path "*$program*" 2>/dev/null || true)
  [ -z "$left" ] || fail "rpm -e left $left"
done
echo "package-check: ok, ${#debs[@]} .deb and ${#rpms[@]} .rpm"
