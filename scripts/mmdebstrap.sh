#!/usr/bin/env bash
# Runs mmdebstrap with no files open but the standard ones. That of Debian 13 hands a descriptor to /bin/sh, which knows
# those below 10 only, and it takes the next that is free.
set -euo pipefail
for fd in "/proc/$BASHPID/fd"/*; do
  fd=${fd##*/}
  if ((fd > 2)); then eval "exec $fd>&-"; fi
done
exec mmdebstrap "$@"
