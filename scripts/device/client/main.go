// Client is the browser of a test device: GET URL, or POST URL BODY.
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"
)

func main() {
	method, body := os.Args[1], ""
	if len(os.Args) > 3 {
		body = os.Args[3]
	}
	r, err := http.NewRequest(method, os.Args[2], strings.NewReader(body))
	if err == nil {
		err = do(r)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func do(r *http.Request) error {
	answer, err := (&http.Client{Timeout: 10 * time.Second}).Do(r)
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
