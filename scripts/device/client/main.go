// Client is the browser of a test device: [--socket PATH] GET URL, or POST URL
// BODY.
package main

import (
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/valise-ota/valise/installer/daemon"
)

func main() {
	socket := flag.String("socket", "", "ask on this socket")
	flag.Parse()
	r, err := http.NewRequest(flag.Arg(0), flag.Arg(1), strings.NewReader(flag.Arg(2)))
	if err == nil {
		err = do(r, *socket)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func do(r *http.Request, socket string) error {
	client := http.Client{Timeout: 10 * time.Second}
	if socket != "" {
		client.Transport = daemon.NewClient(socket, nil).Transport()
	}
	answer, err := client.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if _, err := io.Copy(os.Stdout, answer.Body); err != nil {
		return err
	}
	if answer.StatusCode >= 300 {
		return fmt.Errorf("%s", answer.Status)
	}
	return nil
}
