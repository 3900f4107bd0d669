package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/sigstore/rekor-tiles/v2/cmd/rekor-server/posix/app"
)

// rekorHost is the name that the log signs its checkpoints with. Verifiers take
// it from the log's URL in the trusted root, where the log itself is not.
const rekorHost = "rekor2.sigstored.test"

// startRekor runs a new Rekor v2 on the directory dir/rekor2 and returns its URL
// and key. There can be one in a process, it takes over os.Args, and when it
// cannot go on it ends the process: its command is its only public door.
func startRekor(ctx context.Context, dir string) (string, ed25519.PublicKey, error) {
	storage := filepath.Join(dir, "rekor2")
	if err := os.RemoveAll(storage); err != nil {
		return "", nil, err
	}
	if err := os.MkdirAll(storage, 0o755); err != nil {
		return "", nil, err
	}
	public, private, err := ed25519.GenerateKey(rand.Reader) // the kind that the public log uses
	if err != nil {
		return "", nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return "", nil, err
	}
	keyFile := filepath.Join(dir, "rekor2.key")
	if err := os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		return "", nil, err
	}

	// It wants to know its ports beforehand. On a loopback address that nobody
	// else uses, ports that are free now stay free.
	host := fmt.Sprintf("127.%d.%d.%d", 1+mathrand.IntN(254), mathrand.IntN(256), 1+mathrand.IntN(254))
	ports, err := freePorts(host, 3)
	if err != nil {
		return "", nil, err
	}
	os.Args = []string{
		"rekor-server", "serve",
		"--hostname=" + rekorHost,
		"--storage-dir=" + storage,
		"--signer-filepath=" + keyFile,
		"--http-address=" + host, "--http-port=" + ports[0],
		"--grpc-address=" + host, "--grpc-port=" + ports[1],
		"--http-metrics-port=" + ports[2],
		"--batch-max-age=10ms",
		"--checkpoint-interval=100ms",
	}
	go app.Execute()

	url := "http://" + net.JoinHostPort(host, ports[0])
	return url, public, wait(ctx, url+"/healthz")
}

func freePorts(host string, n int) ([]string, error) {
	var ports []string
	for range n {
		l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
		if err != nil {
			return nil, err
		}
		defer l.Close() // not before the others have theirs
		ports = append(ports, strconv.Itoa(l.Addr().(*net.TCPAddr).Port))
	}
	return ports, nil
}

// wait returns when url answers.
func wait(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		if response, err := http.DefaultClient.Do(r); err == nil {
			response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return errors.New("no answer from " + url)
		case <-time.After(5 * time.Millisecond):
		}
	}
}
