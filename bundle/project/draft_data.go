package project

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/compose-spec/compose-go/v2/dotenv"
	"github.com/compose-spec/compose-go/v2/template"
	"github.com/compose-spec/compose-go/v2/types"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/lazyregexp"
)

// databases are the images of databases, by the last part of their names, and the
// directories they keep data in, which tell one that was built here.
var databases = []struct {
	kind  string
	names *lazyregexp.Regexp
	data  []string
}{
	{"postgres", lazyregexp.New(`^(postgres(ql)?(-repmgr|-ha)?|postgis|timescaledb(-ha)?|pgvector|pgvecto-rs|vectorchord-postgres)$`), []string{"/var/lib/postgresql", "/bitnami/postgresql"}},
	{"mysql", lazyregexp.New(`^(mariadb|mysql|mysql-server|percona|percona-server)$`), []string{"/var/lib/mysql", "/bitnami/mysql", "/bitnami/mariadb"}},
	{"mongo", lazyregexp.New(`^(mongo|mongodb|mongodb-community-server|percona-server-mongodb)$`), []string{"/data/db", "/bitnami/mongodb"}},
	{"redis", lazyregexp.New(`^(redis|redis-stack(-server)?|valkey)$`), []string{"/bitnami/redis", "/bitnami/valkey"}},
	{"other", lazyregexp.New(`^(influxdb|clickhouse(-server)?|couchdb|elasticsearch|opensearch|neo4j|cassandra|mssql|rethinkdb|etcd)$`), nil},
}

// plainImages hold data for others, or run a script: no server comes with them.
var plainImages = lazyregexp.New(`^(busybox|alpine|debian|ubuntu|true)$`)

// database recognises a database by its image, or by where it keeps its data: as the
// only one that keeps them there.
func (d *drafter) database(s types.ServiceConfig) string {
	if kind := databaseImage(s.Image); kind != "" {
		return kind
	}
	if plainImages.MatchString(path.Base(nameOf(s.Image))) {
		return ""
	}
	for _, known := range databases {
		for _, v := range s.Volumes {
			if !v.ReadOnly && slices.ContainsFunc(known.data, func(at string) bool { return v.Target == at || strings.HasPrefix(v.Target, at+"/") }) && !d.keptByDatabase(v) {
				return known.kind
			}
		}
	}
	return ""
}

// keptByDatabase reports whether the image of a database keeps its data in a volume.
func (d *drafter) keptByDatabase(v types.ServiceVolumeConfig) bool {
	for _, s := range d.c.services {
		if databaseImage(s.Image) != "" && slices.ContainsFunc(s.Volumes, func(x types.ServiceVolumeConfig) bool { return x.Source != "" && x.Source == v.Source }) {
			return true
		}
	}
	return false
}

// databaseImage recognises the image of a database by its name.
func databaseImage(image string) string {
	for _, d := range databases {
		if d.names.MatchString(path.Base(nameOf(image))) {
			return d.kind
		}
	}
	return ""
}

// backup proposes what is saved, and names all other data with the reason why not.
func (d *drafter) backup() error {
	var saved, missing []string
	propose := func(kind, members, why string) {
		saved = append(saved, fmt.Sprintf("  - %s: {%s} # %s", kind, members, why))
	}
	seen := map[string]bool{} // data that are spoken of
	names := sortedKeys(d.c.services)
	kinds := map[string]string{}
	for _, name := range names {
		kinds[name] = d.database(d.c.services[name])
	}
	slices.SortStableFunc(names, func(x, y string) int { return strings.Compare(kinds[y], kinds[x]) }) // who knows most of a volume speaks of it
	for _, name := range names {
		s := d.c.services[name]
		data := d.data(s)
		service := "service: " + quote(name)
		kind := kinds[name]
		switch {
		case kind == "postgres" || kind == "mysql":
			tool := map[string]string{"postgres": "pg_dump", "mysql": "mysqldump or mariadb-dump"}[kind]
			user, database, ok := d.declared(kind, name)
			if ok {
				propose(kind, fmt.Sprintf("%s, user: %s, database: %s", service, quote(user), quote(database)), "dumped with "+tool+" while it still runs")
			} else {
				propose(kind, service, "dumped with "+tool+" while it still runs; user and database are those of its environment")
			}
		case kind == "mongo":
			propose(kind, service, "all databases, dumped with mongodump while it still runs")
		case kind == "redis" && len(data) > 0 && !d.hidesPassword(name):
			propose(kind, service, "all keys, as a replica would get them")
		case kind == "redis" && len(data) > 0:
			missing = append(missing, fmt.Sprintf("redis of service %s, because its password stands in its command alone: give it environment: {REDISCLI_AUTH: ...} too, and add redis: {%s}", name, service))
		case kind == "redis":
			missing = append(missing, fmt.Sprintf("redis of service %s, because it has no volume: what it holds is gone with every new container", name))
		default:
			if file := d.sqlite(s, data); file != "" {
				propose("sqlite", fmt.Sprintf("%s, path: %s", service, quote(file)), "copied by SQLite while the app runs")
				kind = "sqlite"
			}
		}
		for _, v := range data {
			key := v.what
			if seen[key] {
				continue
			}
			seen[key] = true
			switch {
			case kind == "sqlite" && strings.HasPrefix(d.sqlite(s, data), v.target+"/"):
				missing = append(missing, fmt.Sprintf("what else is in %s of service %s: add volume: {%s, path: %s} for all its files, which pauses the service", v.what, name, service, quote(v.target)))
			case kind == "" || kind == "other" || kind == "sqlite":
				because := "its content is unknown"
				if kind == "other" {
					because = "Valise has no dump of " + path.Base(nameOf(s.Image))
				}
				if strings.Contains(v.target, "$") {
					missing = append(missing, fmt.Sprintf("%s of service %s, because only a device knows where it is mounted: %s", v.what, name, v.target))
					continue
				}
				missing = append(missing, fmt.Sprintf("%s of service %s, because %s: add volume: {%s, path: %s} for a copy of its files, which pauses the service", v.what, name, because, service, quote(v.target)))
			}
		}
	}
	if len(saved)+len(missing) > 0 {
		d.section("Data to back up before each update.")
	}
	if len(saved) > 0 {
		d.text.WriteString("backup:\n" + strings.Join(saved, "\n") + "\n")
	}
	for _, m := range missing {
		d.comment("NOT backed up: %s", m)
		d.note("not backed up: %s", m)
	}
	return nil
}

// declared are the user and the database that the entry point of an image makes, as
// far as the release alone says so: not what a device decides, and not what a file
// of the device holds.
func (d *drafter) declared(kind, service string) (user, database string, ok bool) {
	values, sure := d.environment(service)
	if !sure {
		return "", "", false
	}
	get := func(keys ...string) (string, bool) {
		for _, key := range keys {
			if _, file := values[key+"_FILE"]; file {
				return "", false
			}
			if v, there := values[key]; there {
				return v.text, v.known && (v.text == "" || bundle.ValidDatabaseName(v.text))
			}
		}
		return "", true
	}
	if kind == "mysql" {
		// The user that may do everything is the one whose password the service knows.
		for _, key := range []string{"MARIADB_ROOT_PASSWORD", "MYSQL_ROOT_PASSWORD", "MARIADB_ROOT_PASSWORD_FILE", "MYSQL_ROOT_PASSWORD_FILE"} {
			if _, root := values[key]; root {
				user = "root"
			}
		}
		ok = true
		if user == "" {
			user, ok = get("MARIADB_USER", "MYSQL_USER")
		}
		database, known := get("MARIADB_DATABASE", "MYSQL_DATABASE")
		return user, database, ok && known && user != "" && database != ""
	}
	if _, bitnami := values["POSTGRESQL_PASSWORD"]; bitnami {
		return "", "", false // which asks for the password, and the environment has it
	}
	user, ok = get("POSTGRES_USER", "POSTGRESQL_USERNAME")
	user = cmp.Or(user, "postgres")
	database, known := get("POSTGRES_DB", "POSTGRESQL_DATABASE")
	return user, cmp.Or(database, user), ok && known
}

// setting is a value of an environment; known says that no device has another one.
type setting struct {
	text  string
	known bool
}

// environment is that of a service: env_file, and environment over it. It is not
// sure when a file of it is not in the release.
func (d *drafter) environment(service string) (values map[string]setting, sure bool) {
	values, sure = map[string]setting{}, true
	attributes := d.c.attributes(service)
	files, _ := attributes["env_file"].([]any)
	for _, f := range files {
		f, _ := f.(map[string]any)
		name, _ := f["path"].(string)
		text, _, literal := literal(name)
		at := d.p.beside(filepath.FromSlash(text))
		if _, inside := d.p.inBundle(at); !literal || !inside || holdsValues(filepath.ToSlash(at)) {
			sure = false
			continue
		}
		b, err := readLimited(d.p.Path(at), MaxComposeSize)
		if errors.Is(err, fs.ErrNotExist) && f["required"] == false {
			continue
		}
		file, perr := dotenv.UnmarshalBytesWithLookup(b, func(string) (string, bool) { return "x", true })
		if err != nil || perr != nil {
			sure = false
			continue
		}
		plain, _ := dotenv.UnmarshalBytesWithLookup(b, func(string) (string, bool) { return "", true })
		for key, value := range file {
			values[key] = setting{value, plain[key] == value} // else a variable of the device is in it
		}
	}
	for key, value := range environmentOf(attributes) {
		if value == nil {
			values[key] = setting{}
			continue
		}
		text, _, ok := literal(*value)
		values[key] = setting{text, ok && !strings.Contains(strings.ReplaceAll(*value, "$$", ""), "$")}
	}
	return values, sure
}

// datum is a directory or volume that a service keeps data in.
type datum struct{ what, target string }

// systemDirs are mounted for what they do, not for data in them.
var systemDirs = lazyregexp.New(`^/(dev|proc|sys|run|var/run|etc|lib|usr|boot|tmp)(/|$)`)

// data are the volumes and directories of the device that a service may write to.
func (d *drafter) data(s types.ServiceConfig) (list []datum) {
	for _, v := range s.Volumes {
		source, target := d.c.unknown.named(v.Source), d.c.unknown.named(v.Target)
		switch {
		case v.ReadOnly || v.Source == "" || looksLikeFile(v.Target) && looksLikeFile(v.Source):
		case v.Type == types.VolumeTypeVolume:
			list = append(list, datum{"volume " + source, target})
		case v.Type == types.VolumeTypeBind && !systemDirs.MatchString(v.Source) && !strings.HasSuffix(v.Source, ".sock") && v.Source != "/" && !d.carried(v.Source):
			list = append(list, datum{"directory " + source, target})
		}
	}
	return list
}

// carried reports whether the release has what is mounted: it is no data then.
func (d *drafter) carried(source string) bool {
	at := d.p.beside(filepath.FromSlash(source))
	if _, inside := d.p.inBundle(at); !inside {
		return false
	}
	info, err := os.Stat(d.p.Path(at))
	if err != nil || !info.IsDir() {
		return err == nil
	}
	entries, err := os.ReadDir(d.p.Path(at))
	return err == nil && slices.ContainsFunc(entries, func(e fs.DirEntry) bool {
		return !slices.Contains([]string{".gitkeep", ".keep", ".gitignore"}, e.Name())
	})
}

// sqliteFile finds the path of a database file in what an app is told: sqlite:///data/app.db
// and /data/app.sqlite3.
var sqliteFile = lazyregexp.New(`^(?:(?:sqlite3?|file):/{0,3})?(/[^?*"' :]+\.(?:db|sqlite3?|db3))(?:\?.*)?$`)

// sqlite is a database file among the data of a service, by its environment.
func (d *drafter) sqlite(s types.ServiceConfig, data []datum) string {
	for _, key := range sortedKeys(s.Environment) {
		value := s.Environment[key]
		if value == nil {
			continue
		}
		m := sqliteFile.FindStringSubmatch(*value)
		if m == nil || path.Clean(m[1]) != m[1] {
			continue
		}
		for _, v := range data {
			if strings.HasPrefix(m[1], strings.TrimSuffix(v.target, "/")+"/") {
				return m[1]
			}
		}
	}
	return ""
}

// hidesPassword reports whether a Redis has a password that its environment does
// not have.
func (d *drafter) hidesPassword(service string) bool {
	values, _ := d.environment(service)
	for _, key := range []string{"REDISCLI_AUTH", "REDIS_PASSWORD", "REDIS_PASSWORD_FILE", "VALKEY_PASSWORD", "VALKEY_PASSWORD_FILE"} {
		if _, there := values[key]; there {
			return false
		}
	}
	return strings.Contains(fmt.Sprint(d.c.attributes(service)["command"], d.c.attributes(service)["entrypoint"]), "requirepass")
}

var (
	secretName = lazyregexp.New(`PASSWORD|PASSPHRASE|SECRET|KEY|TOKEN|SALT|PEPPER`)
	// madeName are those that are made here even when they are called tokens, which
	// others mostly hand out.
	madeName = lazyregexp.New(`PASSWORD|PASSPHRASE|SECRET|KEY|SALT|PEPPER`)
	// foreignName are secrets of others, which cannot be made up here, and files.
	foreignName = lazyregexp.New(`API_?KEY|ACCESS_?KEY|CLIENT_SECRET|PUBLIC|LICEN[CS]E|SMTP|MAIL|AWS|S3_|STRIPE|OAUTH|OIDC|GITHUB|GOOGLE|_FILE$|_PATH$|_ID$`)
	adminName   = lazyregexp.New(`(^|_)(ADMIN|ROOT_?USER|INITIAL|SUPERUSER)_?.*PASSWORD`)
	// ownSecret are names that an app gives to secrets of its own.
	ownSecret = lazyregexp.New(`^((APP|AUTH|COOKIE|DJANGO|FLASK|JWT|NEXTAUTH|RAILS|SESSION|WEB)_)?(SECRET|SECRET_KEY|SECRET_KEY_BASE|JWT_SECRET|SESSION_SECRET|SIGNING_KEY|ENCRYPTION_KEY|APP_KEY)$`)
	// generator is a program that people are told to make a secret with.
	generator = lazyregexp.New(`(?i)openssl +rand( +-(?:hex|base64) +[0-9]+)?|urandom|pwgen|uuidgen|token_(hex|urlsafe|bytes)|random_?bytes|rake secret|key:generate`)
	generate  = lazyregexp.New(`(?i)\b(re)?generated?\b|\brandom`)
	// demand and waiver are words about a key that a device needs, or may do without.
	demand = lazyregexp.New(`(?i)\b(required|mandatory|must (be )?(set|provide[d]?)|you must|has to be set)\b`)
	waiver = lazyregexp.New(`(?i)\b(optional(ly)?|not (be )?(required|mandatory|needed)|(leave|left|keep) (\w+ )?(blank|empty|unset)|only (required|needed|if|when)|if you|does not need)\b`)
	size   = lazyregexp.New(`-(hex|base64) +([0-9]{1,3})`)
)

// readsLikeSecret reports whether a key is one that a device can generate, by its name
// and what is written beside it.
func readsLikeSecret(key, hint string) bool {
	upper := strings.ToUpper(key)
	return secretName.MatchString(upper) && (generator.MatchString(hint) || !foreign(upper, hint) && (generate.MatchString(hint) || ownSecret.MatchString(upper)))
}

// foreign reports whether a secret is one that others hand out, or a file.
func foreign(upper, hint string) bool {
	return foreignName.MatchString(upper) || strings.Contains(upper, "TOKEN") && !madeName.MatchString(upper) && !generate.MatchString(hint)
}

// secretSize is how such a secret is made: as its hint says, if it does.
func secretSize(hint string) string {
	if m := size.FindStringSubmatch(generator.FindString(hint)); m != nil {
		if n, _ := strconv.Atoi(m[2]); (bundle.Secret{Hex: n}).Check() == nil {
			return m[1] + ": " + m[2]
		}
	}
	return "hex: 32"
}

// variables proposes secrets for the variables that have no value before a device
// sets them.
func (d *drafter) variables() error {
	missing := map[string]bool{}
	for name, v := range template.ExtractVariables(d.c.model, template.DefaultPattern) {
		if name != d.p.VersionEnv && !ofCompose(name) && (v.Required || v.DefaultValue == "" && v.PresenceValue == "") {
			missing[name] = true
		}
	}
	for _, name := range d.c.passedOn() {
		if name != d.p.VersionEnv {
			missing[name] = true
		}
	}
	// What people copy to an environment file, or have in one for everybody.
	values, from := maps.Clone(d.env), cmp.Or(d.p.envTemplate(), envName)
	required, open := d.c.required(), d.c.open()
	blank := map[string]bool{} // keys that build wants a word about
	for _, name := range d.template.Keys() {
		value, _ := d.template.Lookup(name)
		values[name] = cmp.Or(values[name], value)
		if d.template.Blank(name) {
			delete(values, name)
			missing[name] = missing[name] || !d.p.ownKey(name) && bundle.ValidEnvKey(name)
			blank[name] = missing[name] && open(name) && !slices.Contains(required, name)
		}
	}
	known := d.known(values, missing)
	data := d.dataVariables()
	var secrets, others, initial, guessed []string
	for _, name := range sortedKeys(d.p.Env) {
		delete(missing, name)
		initial = append(initial, fmt.Sprintf("  %s: {default: %s} # as in %s; it decides an image", name, quote(d.p.Env[name].Default), from))
	}
	add := func(name, file string, data bool) {
		upper := strings.ToUpper(name)
		at := ""
		if file != "" {
			at = ", file: " + quote(file)
		}
		hint := d.template.Hint(name)
		switch {
		case readsLikeSecret(name, hint) && !data && generator.MatchString(hint) && file == "":
			secrets = append(secrets, fmt.Sprintf("  %s: {%s} # as %s says; immutable: true when data is encrypted with it", name, secretSize(hint), from))
		case blank[name] && (!secretName.MatchString(upper) || foreign(upper, hint) || !data && !d.c.mentions(name) && !readsLikeSecret(name, hint)):
			initial = append(initial, decision(name, hint, from))
			guessed = append(guessed, name)
		case (!secretName.MatchString(upper) || foreign(upper, hint)) && (file == "" || !d.isPassword(name)):
			if value, ok := known[name]; ok && file == "" {
				initial = append(initial, fmt.Sprintf("  %s: {initial: %s} # as in %s", name, quote(value), from))
			} else if file == "" {
				others = append(others, name)
			}
		case data:
			secrets = append(secrets, fmt.Sprintf("  %s: {hex: 16, immutable: true%s} # the database keeps it: if it is lost, no new one is generated", name, at))
		case adminName.MatchString(upper):
			secrets = append(secrets, fmt.Sprintf("  %s: {hex: 8, show: once%s} # shown once, at the installation", name, at))
		case strings.Contains(upper, "PASSWORD") || file != "" && d.isPassword(name):
			secrets = append(secrets, fmt.Sprintf("  %s: {hex: 16%s}", name, at)+" # random bytes, written as hex")
		default:
			secrets = append(secrets, fmt.Sprintf("  %s: {hex: 32%s}", name, at)+" # random bytes, written as hex; immutable: true when data is encrypted with it")
		}
	}
	for _, name := range sortedKeys(missing) {
		add(name, "", data[name])
	}
	// Files of compose secrets do not travel.
	for _, r := range d.c.references() {
		if name, ok := strings.CutPrefix(r.user, refSecret+" "); ok && bundle.ValidEnvKey(name) && bundle.LocalPath(onDevice(r.file)) && !missing[name] {
			add(name, onDevice(r.file), d.databaseSecret(name))
		}
	}
	if len(secrets) > 0 {
		d.section("Generated on the device at the first installation.")
		d.text.WriteString("secrets:\n" + strings.Join(secrets, "\n") + "\n")
	}
	if len(initial) > 0 {
		d.section("Initial values of the environment file on a device; a default also counts when a release is built.")
		d.text.WriteString("env:\n" + strings.Join(initial, "\n") + "\n")
	}
	if len(guessed) > 0 {
		d.note("check env: %s leaves these keys empty, and whether a device needs them is guessed: %s", from, strings.Join(guessed, ", "))
	}
	if len(others) > 0 {
		d.section("To be set on the device at the installation: %s", strings.Join(others, ", "))
	}
	return nil
}

// decision is the line of valise.yaml about a key that is empty in the example, as
// what stands beside it reads.
func decision(name, hint, from string) string {
	if demand.MatchString(hint) && !waiver.MatchString(hint) {
		return fmt.Sprintf("  %s: {required: true} # %s says so", name, from)
	}
	return fmt.Sprintf("  %s: {required: false} # empty in %s; true when nothing works without it", name, from)
}

// known are the values that the project has of variables the compose file reads; all
// of them when a service gets the whole file. They are added to missing: a device has
// none of them by itself.
func (d *drafter) known(values map[string]string, missing map[string]bool) map[string]string {
	used := template.ExtractVariables(d.c.model, template.DefaultPattern)
	known := map[string]string{}
	for _, name := range sortedKeys(values) {
		value := values[name]
		v, ok := used[name]
		if value == "" || d.env[name] == "" && d.template.Refers(name) || !ok && !d.c.readsEnv() || v.DefaultValue == value || name == d.p.VersionEnv || strings.HasPrefix(name, "COMPOSE_") || !bundle.ValidEnvKey(name) {
			continue
		}
		if strings.ContainsFunc(value, func(r rune) bool { return r != '\n' && r != '\t' && unicode.IsControl(r) }) {
			d.note("env: the value of %s in %s has control characters, which valise.yaml cannot have: it is left out", name, cmp.Or(d.p.envTemplate(), envName))
			continue
		}
		known[name], missing[name] = value, true
	}
	return known
}

// dataVariables are the variables that a database stores in its volume when it
// starts for the first time.
func (d *drafter) dataVariables() map[string]bool {
	found := map[string]bool{}
	for name, s := range d.c.services {
		if d.database(s) == "" {
			continue
		}
		section := map[string]any{"environment": d.c.attributes(name)["environment"]}
		for variable := range template.ExtractVariables(section, template.DefaultPattern) {
			found[variable] = true
		}
		for variable, value := range s.Environment {
			if value == nil { // passed on
				found[variable] = true
			}
		}
	}
	return found
}

// isPassword reports whether a service reads its password from a secret, by its environment.
func (d *drafter) isPassword(name string) bool {
	for _, s := range d.c.services {
		for key, value := range s.Environment {
			if value != nil && *value == "/run/secrets/"+name && strings.HasSuffix(key, "_FILE") && strings.Contains(key, "PASSWORD") {
				return true
			}
		}
	}
	return false
}

// databaseSecret reports whether a database reads a compose secret.
func (d *drafter) databaseSecret(name string) bool {
	for _, s := range d.c.services {
		for _, secret := range s.Secrets {
			if secret.Source == name && d.database(s) != "" {
				return true
			}
		}
	}
	return false
}
