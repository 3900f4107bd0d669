// Command tiny is all there is in the image of the app that the engine tests install: a service that keeps items in
// a volume, with the API of examples/shop, and, called by their names, stand-ins for pg_dump and pg_restore.
// Its version is in /version; "sick" behind it makes a release that never gets healthy, "eats" one that spoils the items
// of the release before when it starts, "loops" one whose second service ends over and over, "swaps" one that has been
// taken over: when it is told to end it puts a link to $NOTE in place of /data/uploads.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

const items = "/data/items"

func main() {
	switch filepath.Base(os.Args[0]) {
	case "pg_dump":
		if !strings.Contains(strings.Join(os.Args, " "), "-U tiny ") {
			fmt.Fprintln(os.Stderr, "pg_dump: error: connection to server failed: FATAL:  role does not exist")
			os.Exit(1)
		}
		b, _ := os.ReadFile(items)
		fmt.Print("PGDMP\n", string(b))
	case "pg_restore":
		_, _ = io.Copy(io.Discard, os.Stdin)
	default:
		if len(os.Args) > 1 && call(os.Args[1], os.Args[2:]) {
			return
		}
		serve()
	}
}

// call is what hooks, checks and backups run. It reports whether it knows it.
func call(name string, args []string) bool {
	switch name {
	case "save":
		b, _ := os.ReadFile(items)
		fmt.Print(string(b))
	case "load":
		b, _ := io.ReadAll(os.Stdin)
		_ = os.WriteFile(items, b, 0o600)
	case "add":
		f, _ := os.OpenFile(items, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		_, _ = fmt.Fprintf(f, "%s %s\n", strings.Join(args, " "), os.Getenv("VALISE_HOOK"))
		fmt.Println("added")
	case "put": // FILE TEXT
		_ = os.MkdirAll(filepath.Dir(args[0]), 0o755)
		_ = os.WriteFile(args[0], []byte(args[1]), 0o600)
	case "show":
		b, _ := os.ReadFile(args[0])
		fmt.Println(string(b))
	case "size":
		var st syscall.Stat_t
		_ = syscall.Stat(args[0], &st)
		fmt.Printf("%d bytes, %d blocks\n", st.Size, st.Blocks)
	case "swap":
		swap(args[0], args[1])
	case "sparse": // FILE: 8 TiB, all of it hole but the last byte
		f, _ := os.Create(args[0])
		_, _ = f.WriteAt([]byte{1}, 8<<40-1)
	case "sleep":
		time.Sleep(time.Hour)
	case "fail":
		fmt.Fprintln(os.Stderr, "no, never")
		os.Exit(7)
	default:
		return false
	}
	return true
}

// swap puts a link to target in the place of path.
func swap(path, target string) {
	_ = os.RemoveAll(path)
	_ = os.Symlink(target, path)
}

func serve() {
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM)
	b, _ := os.ReadFile("/version")
	version, how, _ := strings.Cut(strings.TrimSpace(string(b)), " ")
	go func() { // the first process of a container has no default for a signal
		<-ended
		if strings.Contains(how, "swaps") {
			swap("/data/uploads", os.Getenv("NOTE"))
		}
		os.Exit(0)
	}()
	sick := strings.Contains(how, "sick")
	fmt.Fprintln(os.Stderr, "\x1b[31mserving "+version, how)
	if strings.Contains(how, "eats") {
		_ = os.WriteFile(items, []byte("eaten by "+version), 0o600)
	}
	if len(os.Args) > 1 && os.Args[1] == "worker" && strings.Contains(how, "loops") {
		time.Sleep(100 * time.Millisecond)
		os.Exit(1)
	}
	var mu sync.Mutex
	http.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) {
		if sick {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_ = json.NewEncoder(w).Encode(map[string]string{"version": version, "note": os.Getenv("NOTE")})
	})
	http.HandleFunc("GET /api/items", func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		b, _ := os.ReadFile(items)
		_ = json.NewEncoder(w).Encode(map[string]int{"count": strings.Count(string(b), "\n")})
	})
	http.HandleFunc("POST /api/items", func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		b, _ := io.ReadAll(r.Body)
		f, err := os.OpenFile(items, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		if err == nil {
			_, err = fmt.Fprintf(f, "%q\n", b)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.WriteHeader(http.StatusCreated)
		_ = f.Close()
	})
	fmt.Println(http.ListenAndServe(":8080", nil))
}
