package main

import (
	"strings"
	"testing"
)

// TestCheckSecrets: secrets as people write them for docker buildx; never one by its
// value, nor a second option.
func TestCheckSecrets(t *testing.T) {
	for _, good := range []string{"id=npm,env=NPM_TOKEN", "id=npmrc,src=/root/.npmrc", "id=aws,source=.aws/credentials", "id=GITHUB_TOKEN", "type=file,id=a.b-c,src=x y"} {
		if err := checkSecrets([]string{good}); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{"", "npm", "npm=s3cret", "id=", "id=npm,value=s3cret", "id=npm,s3cret", "id=npm,src=a,env=B", "id=a,env=1", "--foo", "id=a b"} {
		err := checkSecrets([]string{bad})
		if err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
