// Command rekor1 is a private Rekor v1 for tests: the real server, and the
// Trillian log that it writes to, in one process, in memory, on loopback
// addresses, with a key made at the start.
//
//	rekor1 -dir DIR
//
// When it answers it prints one line of JSON (see output) to standard output. It
// ends when standard input is closed, or on SIGTERM. Logs go to standard error.
// The search by digest, which needs a database, is not there; the one by entry is.
//
// It is not part of sigstored because Trillian and the library below Rekor v2 both
// claim the same command line flags.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/go-openapi/loads"
	"github.com/google/trillian"
	"github.com/google/trillian/extension"
	trillianlog "github.com/google/trillian/log"
	"github.com/google/trillian/quota"
	"github.com/google/trillian/server"
	"github.com/google/trillian/server/admin"
	"github.com/google/trillian/server/interceptor"
	"github.com/google/trillian/storage/memory"
	"github.com/google/trillian/util/clock"
	"github.com/sigstore/rekor/pkg/api"
	"github.com/sigstore/rekor/pkg/generated/restapi"
	"github.com/sigstore/rekor/pkg/generated/restapi/operations"
	rekorlog "github.com/sigstore/rekor/pkg/log"
	"github.com/sigstore/rekor/pkg/types"
	"github.com/sigstore/rekor/pkg/types/dsse"
	_ "github.com/sigstore/rekor/pkg/types/dsse/v0.0.1"
	"github.com/sigstore/rekor/pkg/types/hashedrekord"
	_ "github.com/sigstore/rekor/pkg/types/hashedrekord/v0.0.1"
	"github.com/sigstore/rekor/pkg/types/intoto"
	_ "github.com/sigstore/rekor/pkg/types/intoto/v0.0.1"
	_ "github.com/sigstore/rekor/pkg/types/intoto/v0.0.2"
	"github.com/spf13/viper"
	"google.golang.org/grpc"
	"k8s.io/klog/v2"
)

// output is the line that rekor1 prints.
type output struct {
	RekorURL  string `json:"rekor_url"`
	PublicKey string `json:"public_key"` // a file, PEM
	PID       int    `json:"pid"`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "rekor1:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdin io.Reader, stdout io.Writer) error {
	flags := flag.NewFlagSet("rekor1", flag.ExitOnError)
	dir := flags.String("dir", "", "directory for its public key")
	flags.Parse(args) // exits
	if *dir == "" || flags.NArg() > 0 {
		return errors.New("usage: rekor1 -dir DIR")
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		io.Copy(io.Discard, stdin) // however it ends, nobody holds us any more
		cancel()
	}()

	address, err := startTrillian(ctx)
	if err != nil {
		return err
	}
	handler := newRekor(address)
	o := &output{PID: os.Getpid()}
	if o.PublicKey, err = filepath.Abs(filepath.Join(*dir, "rekor1.pub")); err != nil {
		return err
	}
	if err := writeKey(o.PublicKey, handler); err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	o.RekorURL = "http://" + l.Addr().String()
	s := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}
	go func() { log.Fatalln("rekor", s.Serve(l)) }() // the listener is never closed

	if err := json.NewEncoder(stdout).Encode(o); err != nil {
		return err
	}
	<-ctx.Done() // everything here is made to be thrown away: no orderly shutdown
	return nil
}

// startTrillian runs a log server and the sequencer that integrates what it is
// given, and returns its address.
func startTrillian(ctx context.Context) (*net.TCPAddr, error) {
	trees := memory.NewTreeStorage()
	registry := extension.Registry{
		AdminStorage: memory.NewAdminStorage(trees),
		LogStorage:   memory.NewLogStorage(trees, nil),
		QuotaManager: quota.Noop(),
	}
	s := grpc.NewServer(grpc.UnaryInterceptor(interceptor.ErrorWrapper))
	trillian.RegisterTrillianAdminServer(s, admin.New(registry, nil))
	trillian.RegisterTrillianLogServer(s, server.NewTrillianLogRPCServer(registry, clock.System))

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	go func() { log.Fatalln("trillian", s.Serve(l)) }()

	// Its memory storage warns at every look that finds nothing new.
	klog.SetSlogLogger(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})))
	sequencer := trillianlog.NewOperationManager(trillianlog.OperationInfo{
		Registry:    registry,
		BatchSize:   50,
		NumWorkers:  1,
		RunInterval: 50 * time.Millisecond,
		TimeSource:  clock.System,
	}, trillianlog.NewSequencerManager(registry, 0))
	go sequencer.OperationLoop(ctx)
	return l.Addr().(*net.TCPAddr), nil
}

// newRekor returns the handler of a Rekor with a new log. There can be one in a
// process: its settings are global. It panics when it cannot start.
func newRekor(trillian *net.TCPAddr) http.Handler {
	for name, value := range map[string]any{
		"rekor_server.hostname":       "rekor1.sigstored.test", // its checkpoints say so
		"rekor_server.signer":         "memory",
		"trillian_log_server.address": trillian.IP.String(),
		"trillian_log_server.port":    trillian.Port,
		"enabled_api_endpoints": []string{
			"getLogInfo", "getPublicKey", "getLogProof",
			"createLogEntry", "getLogEntryByIndex", "getLogEntryByUUID", "searchLogQuery",
		},
	} {
		viper.Set(name, value)
	}
	types.SetAllowedKindsForSubmission([]string{hashedrekord.KIND, dsse.KIND, intoto.KIND})

	rekorlog.ConfigureLogger("prod", "") // no stack traces for refused requests
	const newTree = 0
	api.ConfigureAPI(newTree)
	document, err := loads.Embedded(restapi.SwaggerJSON, restapi.FlatSwaggerJSON)
	if err != nil {
		panic(err)
	}
	s := restapi.NewServer(operations.NewRekorServerAPI(document))
	s.ConfigureAPI()
	return s.GetHandler()
}

// writeKey stores the log's public key.
func writeKey(path string, rekor http.Handler) error {
	w := httptest.NewRecorder()
	rekor.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/api/v1/log/publicKey", nil))
	if w.Code != http.StatusOK {
		return fmt.Errorf("get the public key: %d %s", w.Code, w.Body)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, w.Body.Bytes(), 0o644)
}
