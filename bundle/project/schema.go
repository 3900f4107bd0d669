package project

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/google/jsonschema-go/jsonschema"

	"github.com/valise-ota/valise/bundle"
)

// SchemaVersion is the JSON Schema that editors know best.
const SchemaVersion = "http://json-schema.org/draft-07/schema#"

// Schema returns the JSON Schema of valise.yaml, made from the types that Load
// fills. It refuses what Load refuses, as far as a schema can say it: repeated
// keys, templates and whether files exist are beyond it.
func Schema() *jsonschema.Schema {
	s := schemaOf(reflect.TypeFor[Project](), "")
	s.Schema, s.Title = SchemaVersion, DefaultFile
	s.Description = "What an app's repository says about its releases; valise build reads it."
	return s
}

// schemaOf follows the types as the decoder does: by their yaml keys. The
// library's own inference follows json keys, of which these types have others or
// none.
func schemaOf(t reflect.Type, path string) *jsonschema.Schema {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	var s *jsonschema.Schema
	switch {
	case t == reflect.TypeFor[bundle.Duration]():
		s = &jsonschema.Schema{Type: "string", Pattern: `^([0-9]+(\.[0-9]+)?(ns|us|ms|s|m|h))+$`}
	case t == reflect.TypeFor[From]():
		each := object(source(Scratch))
		each.PropertyNames, each.MinProperties = &jsonschema.Schema{Pattern: platformPattern}, new(1)
		s = &jsonschema.Schema{AnyOf: []*jsonschema.Schema{source(Scratch), each}}
	case t == reflect.TypeFor[Go]():
		long := structSchema(t, path)
		long.Required = []string{"package"}
		s = &jsonschema.Schema{AnyOf: []*jsonschema.Schema{{Type: "string", MinLength: new(1)}, long}}
	case t == reflect.TypeFor[Engine]():
		s = &jsonschema.Schema{AnyOf: []*jsonschema.Schema{{Type: "string", MinLength: new(1)}, structSchema(t, path)}}
	case t == reflect.TypeFor[ComposeFiles]():
		one := func() *jsonschema.Schema { return &jsonschema.Schema{Type: "string", MinLength: new(1)} }
		s = &jsonschema.Schema{AnyOf: []*jsonschema.Schema{one(), {Type: "array", Items: one(), MinItems: new(1), UniqueItems: true}}}
	case t == reflect.TypeFor[FileItem]():
		long := structSchema(t, path)
		long.Required = []string{"path"}
		short := &jsonschema.Schema{}
		text(filePattern)(short)
		s = &jsonschema.Schema{AnyOf: []*jsonschema.Schema{short, long}}
	case t.Kind() == reflect.Struct:
		s = structSchema(t, path)
	case t.Kind() == reflect.Map:
		s = object(schemaOf(t.Elem(), path+".*"))
	case t.Kind() == reflect.Slice:
		s = &jsonschema.Schema{Type: "array", Items: schemaOf(t.Elem(), path+".*")}
	case t.Kind() == reflect.String:
		// The decoder takes what looks like a number for the text it is.
		s = &jsonschema.Schema{Types: []string{"string", "number", "boolean"}}
	case t.Kind() == reflect.Int:
		s = &jsonschema.Schema{Type: "integer"}
	case t.Kind() == reflect.Bool:
		s = &jsonschema.Schema{Type: "boolean"}
	default:
		panic(fmt.Sprintf("no schema for %s at %s", t, path)) // a test builds it
	}
	if rule, ok := rules[path]; ok {
		rule(s)
	}
	s.Description = descriptions[path]
	return s
}

func structSchema(t reflect.Type, path string) *jsonschema.Schema {
	s := &jsonschema.Schema{Type: "object", Properties: map[string]*jsonschema.Schema{}, AdditionalProperties: nothing()}
	for i := range t.NumField() {
		name := t.Field(i).Tag.Get("yaml")
		if name == "" || name == "-" {
			continue
		}
		inner := name
		if path != "" {
			inner = path + "." + name
		}
		s.Properties[name] = schemaOf(t.Field(i).Type, inner)
		s.PropertyOrder = append(s.PropertyOrder, name)
	}
	return s
}

func object(values *jsonschema.Schema) *jsonschema.Schema {
	return &jsonschema.Schema{Type: "object", AdditionalProperties: values}
}

func nothing() *jsonschema.Schema { return &jsonschema.Schema{Not: &jsonschema.Schema{}} }

// Patterns of values. The first three are those of package bundle and check.go,
// where they are not exported; a test compares what they accept.
const (
	appPattern      = `^[a-z][a-z0-9-]{0,62}$`
	envPattern      = `^[A-Za-z_][A-Za-z0-9_]{0,127}$`
	platformPattern = `^[a-z0-9]{1,32}/[a-z0-9_]{1,32}(/[a-z0-9.]{1,16})?$`
	databasePattern = `^([A-Za-z0-9_.][A-Za-z0-9_.-]{0,127})?$`
	absolutePattern = `^/([^/.][^/]*|\.[^/.][^/]*|\.\.[^/]+)(/([^/.][^/]*|\.[^/.][^/]*|\.\.[^/]+))*$`
	localPattern    = `^([^/.][^/]*|\.[^/.][^/]*|\.\.[^/]+)(/([^/.][^/]*|\.[^/.][^/]*|\.\.[^/]+))*$`
)

// filePattern is localPattern, or what is left out.
var filePattern = `^!?` + strings.Replace(localPattern[1:], "[^/.]", "[^/.!]", 1)

// source is text that may name a source; except does not.
func source(except ...any) *jsonschema.Schema {
	return &jsonschema.Schema{Type: "string", Not: &jsonschema.Schema{Enum: append(except, "", "oci:", "archive:", "docker:")}}
}

func text(pattern string) func(*jsonschema.Schema) {
	return func(s *jsonschema.Schema) { s.Types, s.Type, s.Pattern = nil, "string", pattern }
}

func between(least, most float64) func(*jsonschema.Schema) {
	return func(s *jsonschema.Schema) { s.Minimum, s.Maximum = &least, &most }
}

func need(keys ...string) func(*jsonschema.Schema) {
	return func(s *jsonschema.Schema) { s.Required = keys }
}

func keys(pattern string) func(*jsonschema.Schema) {
	return func(s *jsonschema.Schema) { s.PropertyNames = &jsonschema.Schema{Pattern: pattern} }
}

// rules are what the types do not say, by the path of the value.
var rules = map[string]func(*jsonschema.Schema){
	"":           oneKind,
	"app":        text(appPattern),
	"registries": keys(hostPattern.String()),
	"registries.*": func(s *jsonschema.Schema) {
		s.Not = &jsonschema.Schema{Required: []string{"ca"}, Properties: map[string]*jsonschema.Schema{"http": {Const: new(any(true))}}}
	},
	"registries.*.mirrors.*": text(mirrorPattern.String()),
	"registries.*.ca":        text(`.`),
	"engine.docker":          text(engineVersionPattern),
	"engine.debian":          text(suitePattern),
	"engine.compose": func(s *jsonschema.Schema) {
		*s = jsonschema.Schema{AnyOf: []*jsonschema.Schema{{Const: new(any(true))}, {Type: "string", Pattern: `^true$|` + engineVersionPattern}}}
	},
	"engine.mirrors.docker":      text(mirrorURLPattern),
	"engine.mirrors.compose":     text(mirrorURLPattern),
	"engine.mirrors.debian":      text(mirrorURLPattern),
	"engine.mirrors.security":    text(mirrorURLPattern),
	"engine.sha256":              func(s *jsonschema.Schema) { keys(engineFilePattern)(s); text(sha256Pattern)(s.AdditionalProperties) },
	"profiles":                   func(s *jsonschema.Schema) { s.UniqueItems = true },
	"profiles.*":                 text(profilePattern.String()),
	"arch":                       func(s *jsonschema.Schema) { keys(platformPattern)(s); text(`^[^/\\\\ ]+$`)(s.AdditionalProperties) },
	"tree":                       need("files", "units"),
	"tree.files":                 func(s *jsonschema.Schema) { s.MinItems = new(1) },
	"tree.files.*":               fromOrUnpack,
	"tree.files.*.from":          text(`.`),
	"tree.files.*.unpack":        text(`.`),
	"tree.files.*.to":            text(`^\.$|` + localPattern),
	"tree.units":                 func(s *jsonschema.Schema) { s.UniqueItems, s.MinItems = true, new(1) },
	"tree.units.*":               text(localPattern),
	"tree.instances":             func(s *jsonschema.Schema) { s.UniqueItems = true },
	"tree.instances.*":           text(`@.+\.`),
	"tree.required":              func(s *jsonschema.Schema) { s.UniqueItems = true },
	"tree.required.*":            text(localPattern),
	"tree.templates.*":           need("from", "to"),
	"tree.templates.*.from":      text(localPattern),
	"tree.templates.*.to":        text(`.`),
	"tree.templates.*.mode":      func(s *jsonschema.Schema) { s.Types, s.Enum = nil, []any{"", "0600", "0640", "0644"} },
	"env":                        keys(envPattern),
	"env.*":                      func(s *jsonschema.Schema) { s.Not = &jsonschema.Schema{Required: []string{"default", "initial"}} },
	"project":                    text(projectPattern.String()),
	"version_env":                text(envPattern),
	"platforms":                  func(s *jsonschema.Schema) { s.MinItems, s.MaxItems = new(1), new(bundle.MaxPlatforms) },
	"platforms.*":                text(platformPattern),
	"legacy":                     text(platformPattern),
	"images":                     keys(`^[^@]*$`),
	"images.*":                   oneSource,
	"images.*.base":              func(s *jsonschema.Schema) { *s = *source() },
	"images.*.go.base":           func(s *jsonschema.Schema) { *s = *source() },
	"images.*.go.env":            keys(envPattern),
	"images.*.files.*":           need("from", "to"),
	"images.*.files.*.from":      text(`.`),
	"images.*.files.*.to":        text(absolutePattern),
	"images.*.files.*.mode":      text(`^0*[1-7][0-7]{0,3}$`),
	"images.*.env":               keys(envPattern),
	"images.*.workdir":           text(`^/$|` + absolutePattern),
	"images.*.expose.*":          func(s *jsonschema.Schema) { s.Types, s.Pattern = []string{"string", "integer"}, exposePattern.String() },
	"images.*.stop_signal":       func(s *jsonschema.Schema) { s.Types, s.Pattern = []string{"string", "integer"}, signalPattern.String() },
	"health":                     anyCheck,
	"health.http":                text(`^https?://`),
	"health.retries":             between(1, 1000),
	"health.status":              between(100, 599),
	"health.tcp.*":               text(`.`),
	"health.command":             need("service", "run"),
	"hooks":                      func(s *jsonschema.Schema) { s.PropertyNames = &jsonschema.Schema{Enum: anyOf(bundle.HookNames...)} },
	"hooks.*":                    need("run"),
	"hooks.*.run":                words,
	"health.command.run":         words,
	"backup.*":                   oneBackup,
	"backup.*.postgres":          need("service"),
	"backup.*.mysql":             need("service"),
	"backup.*.mongo":             need("service"),
	"backup.*.redis":             need("service"),
	"backup.*.sqlite":            need("service", "path"),
	"backup.*.sqlite.path":       text(absolutePattern),
	"backup.*.volume":            need("service", "path"),
	"backup.*.volume.path":       text(absolutePattern),
	"backup.*.command":           need("service", "save", "restore"),
	"backup.*.command.save":      words,
	"backup.*.command.restore":   words,
	"backup.*.postgres.service":  text(`.`),
	"backup.*.postgres.user":     text(databasePattern),
	"backup.*.postgres.database": text(databasePattern),
	"backup.*.mysql.user":        text(databasePattern),
	"backup.*.mysql.database":    text(databasePattern),
	"backup.*.mongo.database":    text(databasePattern),
	"migration":                  func(s *jsonschema.Schema) { s.Types, s.Enum = nil, anyOf("", "reversible", "irreversible") },
	"rollback":                   need("restore_data"),
	"rollback.restore_data":      func(s *jsonschema.Schema) { s.Types, s.Enum = nil, anyOf("never", "ask", "always") },
	"networks":                   keys(`^[a-zA-Z0-9._-]{1,128}$`),
	"volumes":                    keys(`^[a-zA-Z0-9._-]{1,128}$`),
	"secrets":                    keys(envPattern),
	"secrets.*":                  oneOf("hex", "base64", "password"),
	"secrets.*.hex":              between(8, 128),
	"secrets.*.base64":           between(8, 128),
	"secrets.*.password":         between(12, 128),
	"secrets.*.prefix":           text(`^[A-Za-z0-9_.-]{0,127}$`),
	"secrets.*.user":             between(0, 1<<31-1),
	"secrets.*.show":             func(s *jsonschema.Schema) { s.Types, s.Enum = nil, []any{"", "once"} },
	"keep.releases":              between(2, 100),
	"keep.backups":               between(1, 1000),
	"trust.signers":              func(s *jsonschema.Schema) { s.MaxItems = new(bundle.MaxSigners) },
	"trust.signers.*":            keyOrIdentity,
	"trust.signers.*.key":        text(`.`),
	"trust.trusted_root":         text(localPattern),
	"files":                      func(s *jsonschema.Schema) { s.UniqueItems = true },
	"files.*.path":               text(filePattern),
}

// oneKind says which keys belong to which kind of app.
func oneKind(s *jsonschema.Schema) {
	s.Required = []string{"app", "platforms", "health"}
	tree := &jsonschema.Schema{Required: []string{"tree"}, Properties: map[string]*jsonschema.Schema{
		"health": {Properties: map[string]*jsonschema.Schema{"compose": {MaxItems: new(0)}}},
	}}
	for _, key := range []string{"compose", "profiles", "images", "registries", "backup", "networks", "volumes", "project", "engine", "legacy"} {
		tree.Properties[key] = nothing()
	}
	compose := &jsonschema.Schema{Required: []string{"compose"}, Properties: map[string]*jsonschema.Schema{"tree": nothing()}}
	s.OneOf = []*jsonschema.Schema{compose, tree}
}

// fromOrUnpack says that a part of a tree comes from one place.
func fromOrUnpack(s *jsonschema.Schema) {
	s.Required = []string{"to"}
	s.OneOf = []*jsonschema.Schema{{Required: []string{"from"}}, {Required: []string{"unpack"}}}
}

// oneSource says that an image comes from one place, and what may be written
// beside it.
func oneSource(s *jsonschema.Schema) {
	made := []string{"files", "entrypoint", "cmd", "env", "user", "workdir", "labels", "expose", "stop_signal"}
	built := []string{"context", "target", "args"}
	all := map[string][]string{"from": nil, "base": made, "go": made, "dockerfile": built}
	for _, key := range []string{"from", "base", "go", "dockerfile"} {
		option := &jsonschema.Schema{Required: []string{key}, Properties: map[string]*jsonschema.Schema{}}
		for _, other := range s.PropertyOrder {
			if other != key && !slices.Contains(all[key], other) {
				option.Properties[other] = nothing()
			}
		}
		if key == "base" { // an empty image has no layers
			option.AnyOf = []*jsonschema.Schema{
				{Properties: map[string]*jsonschema.Schema{"base": {Not: &jsonschema.Schema{Enum: []any{Scratch}}}}},
				{Required: []string{"files"}, Properties: map[string]*jsonschema.Schema{"files": {MinItems: new(1)}}},
			}
		}
		s.OneOf = append(s.OneOf, option)
	}
}

// oneBackup says that a backup is of one kind.
func oneBackup(s *jsonschema.Schema) {
	s.MinProperties, s.MaxProperties = new(1), new(1)
}

func words(s *jsonschema.Schema) { s.MinItems = new(1) }

func anyOf(list ...string) []any {
	out := make([]any, len(list))
	for i, s := range list {
		out[i] = s
	}
	return out
}

// oneOf says that exactly one of keys is there.
func oneOf(keys ...string) func(*jsonschema.Schema) {
	return func(s *jsonschema.Schema) {
		for _, key := range keys {
			s.OneOf = append(s.OneOf, &jsonschema.Schema{Required: []string{key}})
		}
	}
}

// keyOrIdentity says that a signer has one of the two.
func keyOrIdentity(s *jsonschema.Schema) {
	s.OneOf = []*jsonschema.Schema{
		{Required: []string{"key"}, Properties: map[string]*jsonschema.Schema{"issuer": nothing(), "identity": nothing(), "identity_regexp": nothing()}},
		{Required: []string{"issuer", "identity"}, Properties: map[string]*jsonschema.Schema{"key": nothing(), "identity_regexp": nothing()}},
		{Required: []string{"issuer", "identity_regexp"}, Properties: map[string]*jsonschema.Schema{"key": nothing(), "identity": nothing()}},
	}
}

// anyCheck says that something must be checked, and that only an answer has a
// version.
func anyCheck(s *jsonschema.Schema) {
	s.AnyOf = []*jsonschema.Schema{
		{Required: []string{"compose"}, Properties: map[string]*jsonschema.Schema{"compose": {MinItems: new(1)}}},
		{Required: []string{"http"}},
		{Required: []string{"tcp"}, Properties: map[string]*jsonschema.Schema{"tcp": {MinItems: new(1)}}},
		{Required: []string{"command"}},
	}
	s.DependencyStrings = map[string][]string{"version": {"http"}, "status": {"http"}, "body": {"http"}, "json": {"http"}}
}

// SchemaJSON is Schema as a file.
func SchemaJSON() ([]byte, error) {
	b, err := json.MarshalIndent(Schema(), "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode schema: %w", err)
	}
	return append(b, '\n'), nil
}

// descriptions are shown by editors, by the path of the key.
var descriptions = map[string]string{
	"app":                       "Name of the app, of its bundles and of its directory on the device.",
	"compose":                   "Path of the compose file, or of several, each overriding those before it. Images, build sections and required variables are read from it.",
	"registries":                "Settings for registries, by host.",
	"registries.*.mirrors":      "Mirrors to try first: HOST or HOST/PATH. VALISE_MIRRORS takes precedence.",
	"registries.*.http":         "The registry has no TLS. No password is sent there.",
	"registries.*.ca":           "PEM file with the certificates of its authority. Without it, those in /etc/docker/certs.d/HOST are used.",
	"profiles":                  "Profiles of the compose file that the release runs; services of other profiles are left out. Without it, all are included, and COMPOSE_PROFILES on the device decides.",
	"tree":                      "Instead of compose: an app that is a file tree, run by systemd units.",
	"tree.files":                "Content of the tree.",
	"tree.files.*.from":         "File or directory here; {{.OS}}, {{.Arch}}, {{.Variant}}, {{.Platform}} and {{.Version}} are replaced.",
	"tree.files.*.unpack":       "Archive (zip, tar, tar.gz, tar.bz2, tar.xz, tar.zst, tar.lz4) whose content is taken; templates as in from.",
	"tree.files.*.to":           "Path in the tree; . is its top.",
	"tree.units":                "Paths of systemd unit files in the tree: services, sockets, timers, paths, mounts, targets, templates, and drop-ins (UNIT.d/NAME.conf). Those with [Install] are enabled and started, in the order of their After=, except those that a socket, timer or path starts.",
	"tree.instances":            "Instances of template units to run, for example worker@1.service.",
	"tree.env_file":             "Environment file on the device. Default: /etc/APP/APP.env.",
	"tree.keep_env":             "Variable of the environment file with the number of releases that a device keeps.",
	"tree.signer_env":           "Variable in which older installations, without Valise, name the signer they trust.",
	"tree.templates":            "Configuration files of the device, made from files of the tree. ${KEY} and ${KEY:-default} are replaced with values of the environment file. In a file that has @@KEY@@, only that form is replaced, and $ has no special meaning.",
	"tree.templates.*.from":     "Path in the tree.",
	"tree.templates.*.to":       "File on the device, below a directory of /etc, or /opt/APP, or in each release: /opt/APP/current/web/config.json.",
	"tree.templates.*.mode":     "\"0600\", \"0640\" or \"0644\", which is the default.",
	"tree.templates.*.validate": "Command that must accept the file, {}, before it is installed.",
	"tree.required":             "Paths that the tree must have.",
	"env":                       "Variables of the environment file.",
	"env.*.required":            "Whether an installation or update needs a value. Must be set, or a default given, for a key that is empty in .env.example.",
	"env.*.default":             "Written at every update if the key has no value.",
	"env.*.initial":             "Written at the first installation if the key has no value.",
	"env.*.help":                "What it is for. Default: the comment in .env.example.",
	"arch":                      "Value of {{.Arch}} for each platform, for example linux/amd64: x86_64-linux.",
	"platforms":                 "Platforms that a bundle is made for, for example linux/amd64, linux/arm64, linux/arm/v7.",
	"legacy":                    "The platform whose images older updaters and docker load take from a bundle of several platforms. Default: the first.",
	"images":                    "Where images come from, by name without tag. An image that is not listed is built as its compose service says, or pulled.",
	"images.*.from":             "An existing image, used unchanged: a registry reference, oci:DIR (OCI image layout), archive:FILE (docker save) or docker:NAME (local engine). A map has one for each platform. {{.Version}} is replaced.",
	"images.*.base":             "Base image to put files on: a source as in from, or scratch.",
	"images.*.go":               "Directory of the main package of a Go program, which is built with ko and put on a base.",
	"images.*.go.package":       "Directory of the main package.",
	"images.*.go.ldflags":       "Linker flags. Default: -s -w. {{.Version}} is replaced.",
	"images.*.go.base":          "Base image: a source as in from, or scratch. Default: scratch.",
	"images.*.go.env":           "Environment of go build.",
	"images.*.dockerfile":       "Dockerfile that BuildKit builds for all platforms.",
	"images.*.context":          "Build context. Default: the directory of the Dockerfile.",
	"images.*.target":           "Stage of the Dockerfile. Default: the last one.",
	"images.*.args":             "Build arguments. {{.Version}} is replaced.",
	"images.*.files":            "Files and directories to put on the base, each as its own layer.",
	"images.*.files.*.from":     "File or directory here; {{.OS}}, {{.Arch}}, {{.Variant}}, {{.Platform}} and {{.Version}} are replaced.",
	"images.*.files.*.to":       "Absolute path in the image.",
	"images.*.files.*.mode":     "Octal mode of every file, in quotes. Default: 0755 for executable files, 0644 for others.",
	"images.*.entrypoint":       "Replaces that of the base, and clears its cmd.",
	"images.*.env":              "Added to those of the base.",
	"images.*.labels":           "Added to those of the base.",
	"images.*.expose":           "PORT or PORT/PROTOCOL, added to those of the base.",
	"health":                    "When a release counts as healthy. If it does not become healthy, the update is rolled back.",
	"health.compose":            "Services that must run and, if they have a health check, be healthy.",
	"health.http":               "URL that must answer 200. ${KEY:-default} is read from the environment file of the device.",
	"health.version":            "Member of the JSON answer that must equal the version of the release.",
	"health.retries":            "Number of attempts. Default: 10.",
	"health.interval":           "Time between two attempts. Default: 5s.",
	"backup":                    "Data to back up before the switch to a new release.",
	"backup.*.postgres":         "A PostgreSQL database, dumped with pg_dump in its own service. Default user and database: those of the service's environment.",
	"secrets":                   "Values that the device generates at the first installation, by variable.",
	"secrets.*.hex":             "Number of random bytes, written as hex.",
	"secrets.*.base64":          "Number of random bytes, written in standard base64.",
	"secrets.*.password":        "Number of random letters and digits, without those that look alike.",
	"secrets.*.prefix":          "Text before the value.",
	"secrets.*.immutable":       "Data depends on it: if it is lost, that is an error, and no new value is generated.",
	"secrets.*.file":            "Compose: file for the value, below the app's directory, instead of the environment file; for secrets: {NAME: {file: ...}}.",
	"secrets.*.user":            "Number of the user who owns the file. Default: root.",
	"secrets.*.show":            "once: print it when it is generated.",
	"limits":                    "How long parts of an update may take, like 30m; then it is rolled back. /etc/valise/APP.yaml of a device overrides them.",
	"limits.stage":              "Copying files and loading images. Default: 24h.",
	"limits.backup":             "Saving the data, and the same for restoring it. Default: 6h.",
	"limits.activate":           "Stopping the old release and starting the new one. Default: 30m. Timeouts of hooks are added to each default.",
	"limits.probe":              "Becoming healthy. Default: follows from retries, interval and stable_for.",
	"limits.undo":               "Each step of a rollback. Default: 1h plus the default of probe.",
	"keep":                      "How many of each a device keeps.",
	"project":                   "Compose project name. Default: the app. Another name means new, empty volumes.",
	"version_env":               "Variable of the compose file with the version. Default: APP_VERSION.",
	"networks":                  "External networks of the compose file, by their keys there.",
	"networks.*.create":         "The device creates it if it does not exist, and never removes it.",
	"volumes":                   "Volumes of the compose file, by their keys there.",
	"volumes.*.from":            "When this volume is new, it gets a copy of that volume of the previous release, by its key there.",
	"volumes.*.empty":           "It starts empty, although a volume with data is no longer used.",
	"volumes.*.create":          "The device creates it if it does not exist, and never removes it.",
	"files":                     "More files for the bundle, under the same path: files, directories and patterns as in .dockerignore. Files that the compose file mounts or reads are included anyway. A leading ! excludes.",
	"files.*.path":              "File, directory or pattern.",
	"files.*.public":            "Include it, although git ignores it or it is a secret: everyone with the bundle can read it.",
	"installer":                 "Directory with <os>-<arch>/valise-installer to include in the bundle, or none. Default: the installers of the release of valise.",
	"engine":                    "Docker for machines without it: a directory with *.deb or docker-*.tgz, and docker-compose, in <os>-<arch>/. Or an object with what valise engine fetch downloads.",
	"engine.dir":                "Directory of the files. Default: dist/engine.",
	"engine.docker":             "Version of Docker's static archive, such as 29.1.3.",
	"engine.debian":             "Debian release whose packages are included, such as bookworm.",
	"engine.compose":            "Version of docker compose, or true before it is fetched. Without docker and debian, only docker compose is included.",
	"engine.mirrors":            "Addresses to use instead of the original ones.",
	"engine.mirrors.docker":     "Replaces https://download.docker.com/linux/static/stable.",
	"engine.mirrors.compose":    "Replaces https://github.com/docker/compose/releases/download.",
	"engine.mirrors.debian":     "Replaces https://deb.debian.org/debian.",
	"engine.mirrors.security":   "Replaces https://deb.debian.org/debian-security.",
	"engine.mirrors.keyring":    "File with the keys that sign the package index. Default: Debian's.",
	"engine.sha256":             "Digests of the files, by PLATFORM/FILE. valise engine fetch writes and compares them.",
	"output":                    "File name of the bundle, a template: {{.App}}-{{.Version}}.tar.gz. With {{.OS}}, {{.Arch}} or {{.Variant}} there is one bundle for each platform.",
	"health.status":             "Status of the answer. Default: 200.",
	"health.body":               "Text that the answer must contain.",
	"health.json":               "Members of the JSON answer and their required values; a.b is member b of a.",
	"health.ca":                 "File with the authorities that may sign the certificate of an https URL: on the device (/etc/APP/ca.pem) or in the release. ${KEY} is read from the environment file.",
	"health.fingerprint":        "SHA-256 of the certificate of an https URL. ${KEY} is read from the environment file.",
	"health.tcp":                "host:port that must accept a connection.",
	"health.command":            "A command in the running container of a service that must exit with status 0.",
	"health.stable_for":         "How long all checks must keep passing.",
	"hooks":                     "Commands of the release that run during an update: on the device (a file of the bundle), or in a new container of a service.",
	"hooks.*.timeout":           "Default: 5m.",
	"migration":                 "How the release changes the previous release's data: irreversible if the previous release can no longer work with it, else reversible.",
	"rollback":                  "What a rollback from this release does.",
	"rollback.restore_data":     "Whether the data saved before the update is restored, which loses what was written since.",
	"requires":                  "What a device must have before it can install the release.",
	"requires.from":             "Oldest version from which an update may start.",
	"requires.engine":           "Oldest version of the container engine, like 23.0.",
	"backup.*.mysql":            "A MySQL or MariaDB database, dumped in its own service. Default user and database: those of the service's environment.",
	"backup.*.mongo":            "A database of MongoDB, or all of them, dumped with mongodump in its own service.",
	"backup.*.redis":            "All keys of a Redis or Valkey server, saved with its own client.",
	"backup.*.sqlite":           "A database file in a volume of a service.",
	"backup.*.volume":           "All files of a volume of a service, which is paused during the copy.",
	"backup.*.command":          "save writes the data to standard output; restore reads it from standard input.",

	"trust":                           "Who signs later releases. A device that installs this release trusts these signers from then on.",
	"trust.signers":                   "The complete list. Default: unchanged.",
	"trust.signers.*.key":             "File of a public key, as valise keygen writes it.",
	"trust.signers.*.issuer":          "OIDC issuer, https://token.actions.githubusercontent.com for GitHub Actions.",
	"trust.signers.*.identity":        "Identity in the certificate, exactly.",
	"trust.signers.*.identity_regexp": "Regular expression that must match the whole identity.",
	"trust.trusted_root":              "Sigstore trusted_root.json for the devices, as valise trust update writes it.",
}
