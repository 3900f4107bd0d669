// Cloud is the sample app that is a file tree: a small web service that systemd
// runs.
//
//	cloud          serve on PORT of loopback what is in web/, and /health
//	cloud check F  say whether F is a configuration file it can read
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
)

func main() {
	log.SetFlags(0)
	if err := run(os.Args[1:]); err != nil {
		log.Fatal("cloud: ", err)
	}
}

func run(args []string) error {
	if len(args) == 2 && args[0] == "check" {
		_, err := readConfig(args[1])
		return err
	}
	config, err := readConfig(os.Getenv("CLOUD_CONFIG"))
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	tree := filepath.Dir(filepath.Dir(self))
	version, err := os.ReadFile(filepath.Join(tree, "VERSION"))
	if err != nil {
		return err
	}
	health := map[string]string{"status": "ok", "version": strings.Trim(string(version), "v\n"), "greeting": config["greeting"]}
	code := http.StatusOK
	if config["maintenance"] == "yes" {
		health["status"], code = "maintenance", http.StatusServiceUnavailable
	}
	mux := http.NewServeMux()
	mux.Handle("/", http.FileServer(http.Dir(filepath.Join(tree, "web"))))
	mux.HandleFunc("/health", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(code)
		json.NewEncoder(w).Encode(health)
	})
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM)
	server := &http.Server{Addr: "127.0.0.1:" + os.Getenv("PORT"), Handler: mux}
	go func() { <-end; server.Close() }()
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// readConfig reads lines of "key = value".
func readConfig(file string) (map[string]string, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	config := map[string]string{}
	for s := bufio.NewScanner(f); s.Scan(); {
		line := strings.TrimSpace(s.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok {
			return nil, fmt.Errorf("%s: %q is not a setting", file, line)
		}
		config[strings.TrimSpace(key)] = strings.TrimSpace(value)
	}
	return config, nil
}
