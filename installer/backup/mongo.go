package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/valise-ota/valise/bundle"
)

// mongo is a database of MongoDB, or all of them, dumped in its own service.
type mongo struct {
	bundle.Mongo
	x Execer
}

// mongoScript gives its arguments to a tool of MongoDB, with user and password in a
// file that has no name.
const mongoScript = valueFunction + `
user=$(value MONGO_INITDB_ROOT_USERNAME MONGODB_ROOT_USER)
password=$(value MONGO_INITDB_ROOT_PASSWORD MONGODB_ROOT_PASSWORD)
[ -z "$password" ] || user=${user:-root}
tool=$1
shift
if [ -n "$user" ]; then set -- --username="$user" --authenticationDatabase=admin --config=/dev/fd/3 "$@"; fi
exec "$tool" --quiet "$@" 3<<CONFIG
password: "$(printf '%s' "$password" | sed 's/[\\"]/\\&/g')"
CONFIG
`

func (m mongo) exec(ctx context.Context, tool string, args []string, stdin io.Reader, stdout io.Writer) error {
	return m.x.Exec(ctx, m.Service, append([]string{"sh", "-c", mongoScript, "sh", tool}, args...), stdin, stdout)
}

func (m mongo) save(ctx context.Context, w io.Writer) error {
	args := []string{"--archive"}
	if m.Database != "" {
		args = append(args, "--db="+m.Database)
	}
	return compress(w, func(w io.Writer) error { return m.exec(ctx, "mongodump", args, nil, w) })
}

// An archive begins with mongoMagic, and ends with mongoEnd.
var (
	mongoMagic = []byte{0x6d, 0xe2, 0x99, 0x81}
	mongoEnd   = []byte{0xff, 0xff, 0xff, 0xff}
)

func (m mongo) check(ctx context.Context, f *os.File) error {
	begin, end, err := edges(ctx, f, len(mongoMagic), len(mongoEnd))
	if err != nil {
		return err
	}
	if !bytes.Equal(begin, mongoMagic) {
		return fmt.Errorf("mongodump ended well and its output begins with %x, not with %x", begin, mongoMagic)
	}
	if !bytes.Equal(end, mongoEnd) {
		return errors.New("mongodump ended well and without the end of an archive")
	}
	return nil
}

func (m mongo) restore(ctx context.Context, f *os.File) error {
	args := []string{"--archive", "--drop", "--stopOnError"}
	if m.Database != "" {
		args = append(args, "--nsInclude="+m.Database+".*")
	}
	return inflate(ctx, f, func(r io.Reader) error { return m.exec(ctx, "mongorestore", args, r, io.Discard) })
}

// ready looks at all there is: mongodump answers only when the server does.
func (m mongo) ready(ctx context.Context) error {
	return m.exec(ctx, "mongodump", []string{"--archive=/dev/null", "--db=admin", "--collection=system.version"}, nil, io.Discard)
}
