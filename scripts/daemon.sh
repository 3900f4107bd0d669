#!/usr/bin/env bash
# What engine.sh and buildkit.sh have in common: a daemon that lives below a directory, its processes and its mounts.
# They source it, and set before:
#   dir     the directory
#   state   the directory in it that an argument of each process of the daemon lies below
#   pidfile the file in it with the pid
#   names   what such processes are called, an extended regular expression; parents: those that run containers
# fail and ping (does the daemon answer?) are theirs too.

# processes: the pids of everything on this machine that is called so.
processes() {
  local process name
  for process in /proc/[0-9]*; do
    { read -r name <"$process/comm"; } 2>/dev/null || continue
    if [[ $name =~ ${names:?} ]]; then echo "${process#/proc/}"; fi
  done
}

# is_ours PID: does an argument of that process lie below our directory?
is_ours() {
  local argument
  while IFS= read -r -d '' argument; do
    case $argument in "${dir:?}/${state:?}" | "$dir/$state/"*) return 0 ;; esac
  done < <(cat "/proc/$1/cmdline" 2>/dev/null)
  return 1
}

# ours: the processes of our daemon, and what one that was killed left.
ours() {
  local pid
  for pid in $(processes); do
    if is_ours "$pid"; then echo "$pid"; fi
  done
}

children() { grep -l "^PPid:[[:space:]]*$1\$" /proc/[0-9]*/status 2>/dev/null | cut -d/ -f3 || true; }

# daemon: its pid if it runs. The pid file alone proves nothing: pids are used again.
daemon() {
  local pid
  pid=$(cat "$dir/${pidfile:?}" 2>/dev/null || true)
  if [ -n "$pid" ] && is_ours "$pid"; then echo "$pid"; fi
}

# detach COMMAND ARGUMENT...: becomes the command, which outlives the caller: it gets a session of its own and none of
# the caller's open files.
detach() {
  local fd
  cd /
  for fd in "/proc/$BASHPID/fd"/*; do
    fd=${fd##*/}
    if ((fd > 2)); then eval "exec $fd>&-"; fi
  done
  exec setsid "$@"
}

# answers PID: waits until the daemon does, as long as it runs; on a busy machine that takes minutes.
answers() {
  for _ in {1..6000}; do
    if ping; then return 0; fi
    kill -0 "$1" 2>/dev/null || return 1
    sleep 0.1
  done
  return 1
}

# end_daemon PID asks it to end, and gives it 20 seconds.
end_daemon() {
  kill "$1" 2>/dev/null || true
  for _ in {1..200}; do
    is_ours "$1" || break # the pid of a process that ended, reaped or not, has no arguments
    sleep 0.1
  done
}

# end_processes ends what a killed daemon left: containers first.
end_processes() {
  local pid child
  for pid in $(ours); do
    if grep -qE "${parents:?}" "/proc/$pid/comm" 2>/dev/null; then
      for child in $(children "$pid"); do kill -KILL "$child" 2>/dev/null || true; done
    fi
  done
  for pid in $(ours); do kill -KILL "$pid" 2>/dev/null || true; done
  for _ in {1..600}; do
    [ -n "$(ours)" ] || return 0
    sleep 0.1
  done
  fail "processes below $dir do not end: $(ours | xargs)"
}

unmount_all() {
  local mount
  awk -v top="$dir/" 'index($2, top) == 1 { print $2 }' /proc/self/mounts | sort -r | while read -r mount; do
    umount "$mount" 2>/dev/null || umount -l "$mount" 2>/dev/null || true
  done
}
