package project

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/valise-ota/valise/bundle"
)

// subdirectory is a compose file in deploy/ that uses all that it can of the directory above.
var subdirectory = map[string]string{
	"deploy/compose.yaml": `include: [../parts/cache.yaml]
services:
  db:
    extends: {file: ../common.yaml, service: base}
    build: {context: .., dockerfile: deploy/Dockerfile, additional_contexts: {shared: ../shared}}
    image: db
    env_file: [../.env, ../config/db.env, {path: ../config/none.env, required: false}]
    label_file: [../config/labels]
    configs: [c]
    secrets: [s]
    security_opt: ["seccomp:../config/seccomp.json", "no-new-privileges:true"]
    volumes:
      - ../config/db.conf:/db.conf:ro
      - ../config/db.d:/db.d:ro
      - ../data:/data
      - ../${SITE}/page:/page
      - ${PWD}/beside.conf:/beside.conf:ro
      - ${CONF:-../config}/db.conf:/again.conf:ro
      - ${DATA:-../more}/db:/more
      - ./own:/own
      - kept:/kept
configs: {c: {file: ../config/c.conf}}
secrets: {s: {file: ../secrets/s.txt}}
volumes: {kept: {driver_opts: {type: none, o: bind, device: "${PWD}/../kept"}}}
`,
	"common.yaml": "services: {base: {image: x, restart: always, volumes: [\"./shared/base.conf:/base.conf:ro\"]}}\n", "shared/base.conf": "b",
	"parts/cache.yaml": "services: {cache: {image: c, restart: always, volumes: [\"./cache.conf:/c.conf:ro\"]}}\n", "parts/cache.conf": "c",
	".env": "TOKEN=hidden", "config/db.env": "A=1", "config/labels": "l=m", "config/seccomp.json": "{}", "config/db.conf": "d", "config/db.d/a": "a", "config/db.d/.env.local": "hidden",
	"config/db.d/ignored": "hidden", "config/c.conf": "c", "secrets/s.txt": "hidden", "deploy/beside.conf": "b",
}

// within loads the project in a directory of files, of which git ignores those that are called so.
func within(t *testing.T, dir, project string) (*Release, error) {
	t.Helper()
	p, err := Load(t.Context(), filepath.Join(dir, project))
	if err != nil {
		return nil, err
	}
	p.Ignored = func(_ context.Context, paths []string) ([]string, error) {
		return slices.DeleteFunc(slices.Clone(paths), func(p string) bool { return !strings.Contains(p, "ignored") }), nil
	}
	return p.Release(t.Context(), "1.2.3", p.Platforms)
}

// TestSubdirectory has a compose file in a subdirectory name everything above it, with
// valise.yaml at the top of the repository and beside the compose file.
func TestSubdirectory(t *testing.T) {
	for _, c := range []struct{ name, project, compose, above string }{
		{"from the top", "valise.yaml", "deploy/compose.yaml", ""},
		{"from beside", "deploy/valise.yaml", "compose.yaml", ".repository/"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, filepath.Join(dir, ".git", "HEAD"), "")
			for name, text := range subdirectory {
				write(t, filepath.Join(dir, name), text)
			}
			write(t, filepath.Join(dir, c.project), strings.ReplaceAll(goodProject, "compose.yaml", c.compose)+"installer: none\n")
			r, err := within(t, dir, c.project)
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			var list []bundle.File
			for _, f := range r.Files {
				names = append(names, f.Path)
				list = append(list, bundle.File{Path: f.Path, Mode: 0o644, Digest: bundle.DigestOf([]byte(f.Path))})
				if b, err := os.ReadFile(f.Source); err != nil || strings.Contains(string(b), "hidden") {
					t.Errorf("%s: %q, %v", f.Path, b, err)
				}
			}
			for _, want := range []string{"config/db.env", "config/labels", "config/seccomp.json", "config/db.conf", "config/db.d/a", "config/c.conf", "shared/base.conf", "parts/cache.conf"} {
				if !slices.Contains(names, c.above+want) {
					t.Errorf("no %s in %q", c.above+want, names)
				}
			}
			for _, want := range []string{"common.yaml", "parts/cache.yaml"} {
				if !slices.Contains(names, "compose-source/"+c.above+want) {
					t.Errorf("no %s in %q", want, names)
				}
			}
			if !slices.Equal(r.Local, []string{"secrets/s.txt"}) {
				t.Errorf("a device must have %q", r.Local)
			}
			resolved, err := r.Resolve(list)
			if err != nil {
				t.Fatal(err)
			}
			text := string(resolved.Text)
			for _, want := range []string{"source: ./data\n", "- ./.env\n", "source: ./${SITE}/page\n", "source: ./releases/.mounts/beside.conf-", "seccomp:./releases/.mounts/seccomp.json-",
				"file: ./secrets/s.txt\n", "${DATA:-./more}/db", "source: ./own\n", "source: ./releases/.mounts/db.conf-", "device: ./kept\n", "driver: local\n", "l: m\n"} {
				if !strings.Contains(text, want) {
					t.Errorf("no %q in\n%s", want, text)
				}
			}
			if strings.Contains(text, "..") || strings.Contains(text, "PWD") {
				t.Errorf("leads up:\n%s", text)
			}
			img := r.Images[1].Image
			for _, made := range []string{img.Context, img.Dockerfile, img.Build.Contexts["shared"]} {
				if at := filepath.Join(filepath.Dir(c.project), made); !filepath.IsLocal(at) {
					t.Errorf("builds with %s", at)
				}
			}
			if slices.Contains(r.RequiredEnv, "PWD") {
				t.Errorf("requires %q", r.RequiredEnv)
			}
			if _, err := NewDraft(t.Context(), filepath.Join(dir, filepath.Dir(c.project)), []string{c.compose}, nil); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestAbove refuses each key that names something above the repository, and above the
// directory of valise.yaml where there is no git.
func TestAbove(t *testing.T) {
	const bare = "services: {db: {image: a, %}}\n"
	for _, c := range []struct{ name, compose, want string }{
		{"bind", strings.ReplaceAll(bare, "%", `volumes: ["../../x/there:/a"]`), "service db uses ../../x/there, "},
		{"bind of nothing", strings.ReplaceAll(bare, "%", `volumes: ["../../x/nothing:/a"]`), "service db uses ../../x/nothing, "},
		{"long bind", strings.ReplaceAll(bare, "%", `volumes: [{type: bind, source: ../../x/there, target: /a}]`), "service db uses ../../x/there, "},
		{"default", strings.ReplaceAll(bare, "%", `volumes: ["${X:-../../x}/there:/a"]`), "service db uses ${X:-../../x}/there, "},
		{"working directory", strings.ReplaceAll(bare, "%", `volumes: ["$PWD/../../x/there:/a"]`), "service db uses $PWD/../../x/there, "},
		{"env_file", strings.ReplaceAll(bare, "%", `env_file: ../../x/there`), "service db uses ../../x/there, "},
		{"environment file", strings.ReplaceAll(bare, "%", `env_file: ../../.env`), "service db uses ../../.env, "},
		{"label_file", strings.ReplaceAll(bare, "%", `label_file: ../../x/there`), "service db uses ../../x/there, "},
		{"security_opt", strings.ReplaceAll(bare, "%", `security_opt: ["seccomp=../../x/there"]`), "service db uses ../../x/there, "},
		{"config", strings.ReplaceAll(bare, "%", "configs: [c]") + "configs: {c: {file: ../../x/there}}\n", "config c uses ../../x/there, "},
		{"secret", strings.ReplaceAll(bare, "%", "secrets: [c]") + "secrets: {c: {file: ../../x/there}}\n", "secret c uses ../../x/there, "},
		{"volume", strings.ReplaceAll(bare, "%", `volumes: ["v:/v"]`) + "volumes: {v: {driver: local, driver_opts: {o: bind, type: none, device: ../../x}}}\n", "volume v uses ../../x, "},
		{"extends", strings.ReplaceAll(bare, "%", "extends: {file: ../../x/part.yaml, service: part}"), "it takes parts from UP/x/part.yaml, "},
		{"include", "include: [../../x/part.yaml]\n" + strings.ReplaceAll(bare, "%", ""), "it takes parts from UP/x/part.yaml, "},
		{"environment of an include", "include: [{path: ../part.yaml, env_file: ../../x/there}]\n" + strings.ReplaceAll(bare, "%", ""), "it takes parts from UP/x/there, "},
		{"directory of an include", "include: [{path: ../part.yaml, project_directory: ../../x}]\n" + strings.ReplaceAll(bare, "%", ""), "it takes parts from UP/x, "},
		{"build", strings.ReplaceAll(bare, "%", "build: ../../x"), "service db: build.context is UP/x, "},
		{"dockerfile", strings.ReplaceAll(bare, "%", "build: {context: ., dockerfile: ../../x/there}"), "service db: build.dockerfile is UP/x/there, "},
		{"additional context", strings.ReplaceAll(bare, "%", "build: {context: ., additional_contexts: {x: ../../x}}"), "service db: build.additional_contexts has UP/x, "},
		{"build secret", strings.ReplaceAll(bare, "%", "build: {context: ., secrets: [s]}") + "secrets: {s: {file: ../../x/there}}\n", "service db: build.secrets has ../../x/there, "},
		{"link", strings.ReplaceAll(bare, "%", `volumes: ["./out:/a"]`), "/x/there, which is outside "},
		{"another name", strings.ReplaceAll(bare, "%", `volumes: ["./x/data:/a", "../x/data:/b"]`), "service db uses ../x/data, and another one x/data: both would be /opt/shop/x/data on a device; give one another name"},
		{"all", strings.ReplaceAll(bare, "%", `volumes: ["../:/a"]`), "service db uses ../, the directory of the compose file or one above, which"},
		{"ignored by a link", strings.ReplaceAll(bare, "%", `volumes: ["./secret:/a"]`), "is a link to ignored, which git ignores or which holds values: "},
		{"behind a variable", strings.ReplaceAll(bare, "%", `volumes: ["../${X}/../a:/a"]`), "service db uses ../${X}/../a, which may lead out of the app's directory on a device: "},
	} {
		for _, git := range []bool{true, false} {
			t.Run(c.name, func(t *testing.T) {
				dir := t.TempDir()
				up, project, advice := "..", "top/valise.yaml", "which is above the repository: move it into the repository and name it there"
				write(t, filepath.Join(dir, project), strings.ReplaceAll(goodProject, "compose.yaml", "deploy/compose.yaml"))
				if git {
					write(t, filepath.Join(dir, "top", ".git", "HEAD"), "")
				} else {
					advice = "which is above the directory of valise.yaml, and there is no git repository: put valise.yaml into a directory that holds both"
				}
				for name, text := range map[string]string{"top/deploy/compose.yaml": c.compose, "x/there": "A=1", "top/there": "A=1", "top/ignored": "x", "x/part.yaml": "services: {part: {image: a}}\n", "top/part.yaml": "services: {other: {image: a}}\n", ".env": "A=1"} {
					write(t, filepath.Join(dir, name), text)
				}
				for name, to := range map[string]string{"out": "../../x/there", "secret": "../ignored"} {
					if err := os.Symlink(to, filepath.Join(dir, "top", "deploy", name)); err != nil {
						t.Fatal(err)
					}
				}
				_, err := within(t, dir, project)
				want := strings.ReplaceAll(c.want, "UP", up)
				if strings.HasSuffix(want, ", ") {
					want += advice
				}
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("got  %v\nwant %s", err, want)
				}
			})
		}
	}
}

// TestLaptopPaths refuses paths that only a laptop has, and says where a home directory is.
func TestLaptopPaths(t *testing.T) {
	for _, c := range []struct{ compose, want string }{
		{`services: {db: {image: a, volumes: ["/Users/me/conf:/conf"]}}`, "service db uses /Users/me/conf, a path of a laptop that a device does not have: write one from the compose file, or a variable"},
		{`services: {db: {image: a, volumes: ["${SOCK:-/private/var/run/docker.sock}:/var/run/docker.sock"]}}`, "service db uses /private/var/run/docker.sock, a path of macOS: on a device it is /var/run/docker.sock"},
		{`services: {db: {image: a, volumes: [{type: bind, source: /Volumes/disk, target: /d}]}}`, "service db uses /Volumes/disk, "},
		{`services: {db: {image: a, env_file: /Users/me/.env}}`, "service db uses /Users/me/.env, "},
		{"services: {db: {image: a, secrets: [s]}}\nsecrets: {s: {file: /mnt/c/Users/me/pw}}", "secret s uses /mnt/c/Users/me/pw, "},
	} {
		if _, _, err := release(t, map[string]string{"valise.yaml": goodProject, "compose.yaml": c.compose}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got  %v\nwant %s", err, c.want)
		}
	}
	r, _, err := release(t, map[string]string{"valise.yaml": goodProject, "compose.yaml": `services: {db: {image: a, restart: always, volumes: ["~/a:/a", "$HOME/b:/b", "${HOME:?}:/c", "/srv/Users/x:/d"]}}`})
	if err != nil || len(r.RequiredEnv) > 0 {
		t.Fatal(r, err)
	}
	for _, want := range []string{"/root/a,", "/root/b,", "/root,"} {
		if !strings.Contains(strings.Join(r.Notes, "\n"), want) {
			t.Errorf("no %s in %q", want, r.Notes)
		}
	}
}

// TestNamedPlatforms compares platform of a service with those of the release.
func TestNamedPlatforms(t *testing.T) {
	for platform, want := range map[string]string{
		"linux/amd64,linux/arm64": `service db: platform "linux/amd64,linux/arm64" is not one platform: leave it out, the release has an image for each`,
		"linux/s390x":             "service db has platform: linux/s390x: devices of [linux/amd64 linux/arm64] refuse it; leave platform out, the release has an image for each",
		"linux/arm64/v8":          "service db has platform: linux/arm64/v8: devices of [linux/amd64] refuse it; leave platform out, the release has an image for each",
		"${PLATFORM}":             "",
	} {
		r, _, err := release(t, map[string]string{"valise.yaml": strings.ReplaceAll(goodProject, "[linux/amd64]", "[linux/amd64, linux/arm64]"), "compose.yaml": "services: {db: {image: a, restart: always, platform: \"" + platform + "\"}}\n"})
		got := ""
		if err != nil {
			got = err.Error()
		} else {
			got = strings.Join(r.Notes, "\n")
		}
		if !strings.HasSuffix(got, want) || want == "" && got != "" {
			t.Errorf("%s: got  %s\nwant %s", platform, got, want)
		}
	}
}

// TestDraftedPassword proposes to generate a secret that a service reads as its password,
// whatever it is called, and asks for nothing that docker compose knows.
func TestDraftedPassword(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "compose.yaml"), `services:
  db: {image: postgres, environment: {POSTGRES_PASSWORD_FILE: /run/secrets/pw}, secrets: [pw, cert], volumes: ["${PWD}/data:/var/lib/postgresql/data", "$HOME/x:/x"]}
  app: {image: a, environment: {DB_PASSWORD_FILE: /run/secrets/other}, secrets: [other]}
secrets: {pw: {file: secrets/pw.txt}, cert: {file: secrets/cert.pem}, other: {file: secrets/other.txt}}
`)
	d, err := NewDraft(t.Context(), dir, []string{"compose.yaml"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	text := string(d.YAML)
	for _, want := range []string{"  pw: {hex: 16, immutable: true, file: secrets/pw.txt}", "  other: {hex: 16, file: secrets/other.txt}"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if strings.Contains(text, "cert: {") || strings.Contains(text, "PWD") || strings.Contains(text, "HOME") {
		t.Errorf("got\n%s", text)
	}
}
