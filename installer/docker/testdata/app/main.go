// Program app is what the containers of the compose tests run.
package main

import (
	"fmt"
	"io"
	"os"
	"time"
)

func main() {
	switch os.Args[1] {
	case "sleep":
		time.Sleep(time.Hour)
	case "crash":
		time.Sleep(100 * time.Millisecond)
		os.Exit(1)
	case "cat":
		io.Copy(os.Stdout, os.Stdin)
	case "fail":
		fmt.Println("half a result")
		fmt.Fprintln(os.Stderr, "no such database")
		os.Exit(3)
	case "flood":
		for {
			os.Stdout.Write(make([]byte, 64<<10))
		}
	}
}
