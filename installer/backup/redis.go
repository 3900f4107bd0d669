package backup

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc64"
	"io"
	"os"

	"github.com/valise-ota/valise/bundle"
)

// redis is all keys of a Redis or Valkey server, as the snapshot that a replica
// gets.
type redis struct {
	bundle.Redis
	x Execer
}

const redisScript = valueFunction + `
family=redis
command -v redis-cli >/dev/null 2>&1 || family=valkey
cli=$family-cli
REDISCLI_AUTH=${REDISCLI_AUTH:-$(value REDIS_PASSWORD VALKEY_PASSWORD)}
export REDISCLI_AUTH
[ -n "$REDISCLI_AUTH" ] || unset REDISCLI_AUTH # an empty one is sent, and refused
ask() { "$cli" --no-auth-warning "$@"; }
`

// redisSave: older clients have no name for standard output.
const redisSave = redisScript + `
case $("$cli" --help 2>&1) in
*'"-"'*) ask --rdb - ;;
*) ask --rdb /dev/stdout ;;
esac
`

// redisRestore has the server become, for a moment, the replica of one that holds
// the snapshot: it takes all keys over at once, or keeps what it has, whether it
// writes an append-only file or not. Stopped in between it can be repeated.
const redisRestore = redisScript + `
dir=$(mktemp -d) || exit
end() {
	ask REPLICAOF NO ONE >/dev/null
	[ -z "${pid:-}" ] || kill "$pid" 2>/dev/null
	rm -rf "$dir"
}
trap end EXIT
trap 'exit 1' TERM INT
cat >"$dir/dump.rdb" || exit
port=$((20000 + $$ % 20000))
secret=$(ask CONFIG GET masterauth | sed -n 2p)
line=
[ -z "$secret" ] || line="requirepass \"$(printf %s "$secret" | sed 's/[\\"]/\\&/g')\""
"$family-server" - >"$dir/log" 2>&1 <<CONFIG &
port $port
bind 127.0.0.1
dir $dir
save ""
appendonly no
$line
CONFIG
pid=$!
other() { REDISCLI_AUTH=$secret "$cli" --no-auth-warning -p "$port" "$@" 2>/dev/null; }
until [ "$(other PING)" = PONG ]; do
	kill -0 "$pid" 2>/dev/null || { tail -n 5 "$dir/log" >&2; exit 1; }
	sleep 0.2 2>/dev/null || sleep 1
done
[ "$(ask REPLICAOF 127.0.0.1 "$port")" = OK ] || exit
until ask INFO replication | grep -q '^master_link_status:up'; do
	kill -0 "$pid" 2>/dev/null || { tail -n 5 "$dir/log" >&2; exit 1; }
	sleep 0.2 2>/dev/null || sleep 1
done
[ "$(ask REPLICAOF NO ONE)" = OK ] || exit
until ask INFO persistence | grep -q '^aof_rewrite_in_progress:0'; do sleep 0.2 2>/dev/null || sleep 1; done
[ "$(ask SAVE)" = OK ]
`

func (r redis) exec(ctx context.Context, script string, stdin io.Reader, stdout io.Writer) error {
	return r.x.Exec(ctx, r.Service, []string{"sh", "-c", script, "sh"}, stdin, stdout)
}

func (r redis) save(ctx context.Context, w io.Writer) error {
	return compress(w, func(w io.Writer) error { return r.exec(ctx, redisSave, nil, w) })
}

// A snapshot begins with REDIS or, of newer Valkey, VALKEY; redisEnd and a checksum
// of all before it end it. What a client writes to a pipe has redisMark bytes more,
// by which the server told it that all was sent.
const (
	redisEnd      = 0xff
	redisChecksum = 8
	redisMark     = 40
)

// redisTable is that of the checksum, CRC-64 of Jones.
var redisTable = crc64.MakeTable(0x95ac9329ac4bc9b5)

func (r redis) check(ctx context.Context, f *os.File) error {
	s := &snapshot{sum: ^uint64(0)}
	if err := inflate(ctx, f, func(r io.Reader) error { _, err := copyAll(ctx, s, r); return err }); err != nil {
		return err
	}
	if !bytes.HasPrefix(s.begin, []byte("REDIS")) && !bytes.HasPrefix(s.begin, []byte("VALKEY")) {
		return fmt.Errorf("the snapshot begins with %q, want REDIS", s.begin)
	}
	for _, more := range []int{0, redisMark} {
		if n := len(s.end) - more - redisChecksum; n > 0 && s.end[n-1] == redisEnd {
			want := binary.LittleEndian.Uint64(s.end[n:])
			if want == 0 || want == ^crc64.Update(s.sum, redisTable, s.end[:n]) { // 0: the server makes none
				return nil
			}
		}
	}
	return errors.New("the snapshot ended well and without its end")
}

// snapshot takes one in, and keeps its first and last bytes.
type snapshot struct {
	begin, end []byte
	sum        uint64 // of all before end
}

func (s *snapshot) Write(p []byte) (int, error) {
	s.begin = append(s.begin, p[:min(len(p), 6-len(s.begin))]...)
	s.end = append(s.end, p...)
	if over := len(s.end) - (1 + redisChecksum + redisMark); over > 0 {
		s.sum = crc64.Update(s.sum, redisTable, s.end[:over])
		s.end = append(s.end[:0], s.end[over:]...)
	}
	return len(p), nil
}

func (r redis) restore(ctx context.Context, f *os.File) error {
	return inflate(ctx, f, func(in io.Reader) error { return r.exec(ctx, redisRestore, in, io.Discard) })
}

func (r redis) ready(ctx context.Context) error {
	return r.exec(ctx, redisScript+`[ "$(ask PING)" = PONG ]`, nil, io.Discard)
}
