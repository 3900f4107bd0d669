package compose

import (
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
)

// TestLinked: whatever way a compose file says an image, people's docker compose gets
// the one that was verified, and pulls none.
func TestLinked(t *testing.T) {
	text := `
x-common: &common {restart: always, image: "shop/common:1", pull_policy: always}
services:
  web: &web
    image: shop/web:${SHOP_VERSION:?}
    ports: ["80:80"] # a comment
  twin: *web
  merged:
    <<: *common
    command: [a]
  folded: {"image": shop/folded, pull_policy: missing}
  built: {}
volumes: {data: {}}
`
	pinned := `{"services": {"web": {"image": "sha256:1", "pull_policy": "never"}, "twin": {"image": "sha256:2", "pull_policy": "never"}, "merged": {"image": "sha256:3", "pull_policy": "never"}, "folded": {"image": "sha256:4", "pull_policy": "never"}, "built": {"image": "sha256:5", "pull_policy": "never"}}}`
	b, err := linked([]byte(text), []byte(pinned), "shop")
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Name     string
		Services map[string]struct {
			Image   string
			Policy  string `yaml:"pull_policy"`
			Restart string
			Ports   []string
			Command []string
		}
	}
	if err := yaml.Load(b, &got); err != nil {
		t.Fatalf("%v\n%s", err, b)
	}
	if got.Name != "shop" || len(got.Services) != 5 || got.Services["merged"].Restart != "always" || len(got.Services["twin"].Ports) != 1 || len(got.Services["merged"].Command) != 1 {
		t.Errorf("%+v\n%s", got, b)
	}
	for name, s := range got.Services {
		want := "sha256:" + map[string]string{"web": "1", "twin": "2", "merged": "3", "folded": "4", "built": "5"}[name]
		if s.Image != want || s.Policy != "never" {
			t.Errorf("%s: %+v\n%s", name, s, b)
		}
	}
	if again, err := linked([]byte(text), []byte(pinned), "shop"); err != nil || string(again) != string(b) {
		t.Errorf("it is not the same again: %v", err)
	}
	if _, err := linked([]byte("services: [a]"), []byte(pinned), "shop"); err == nil || !strings.Contains(err.Error(), "no services") {
		t.Errorf("%v", err)
	}
}
