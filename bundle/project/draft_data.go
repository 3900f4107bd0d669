package project

import (
	"cmp"
	"fmt"
	"maps"
	"path"
	"regexp"
	"strings"

	"github.com/compose-spec/compose-go/v2/template"
	"github.com/compose-spec/compose-go/v2/types"

	"github.com/valise-ota/valise/bundle"
)

// database recognises the image of a database by its name.
func database(image string) string {
	switch base := path.Base(nameOf(image)); {
	case strings.HasPrefix(base, "postgres"), base == "postgis", strings.HasPrefix(base, "timescaledb"), base == "pgvector":
		return "postgres"
	case base == "mariadb", base == "mysql", base == "mysql-server", base == "percona":
		return base
	case base == "mongo", base == "redis", base == "valkey", base == "influxdb", base == "clickhouse-server", base == "couchdb", base == "elasticsearch":
		return base
	}
	return ""
}

func (d *drafter) backup() error {
	var saved, missing []string
	for _, name := range sortedKeys(d.c.services) {
		s := d.c.services[name]
		kind := database(s.Image)
		if kind == "postgres" {
			user, database, ok := d.postgres(name)
			if ok {
				saved = append(saved, fmt.Sprintf("  - postgres: {service: %s, user: %s, database: %s} # dumped with pg_dump while it still runs", quote(name), quote(user), quote(database)))
				continue
			}
			d.note("service %s: user and database depend on variables that only a device knows: add it under backup by hand", name)
		}
		volumes := d.volumes(s)
		switch {
		case kind != "" && len(volumes) > 0:
			missing = append(missing, fmt.Sprintf("service %s (%s), volume %s", name, kind, strings.Join(volumes, ", ")))
		case kind != "":
			missing = append(missing, fmt.Sprintf("service %s (%s)", name, kind))
		case len(volumes) > 0:
			missing = append(missing, fmt.Sprintf("service %s, volume %s", name, strings.Join(volumes, ", ")))
		}
	}
	if len(saved)+len(missing) > 0 {
		d.section("Data that is saved before a release is switched, and restored when it is rolled back.")
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

// postgres finds user and database as the image's entry point does.
func (d *drafter) postgres(name string) (user, database string, ok bool) {
	written, _ := d.c.attributes(name)["environment"].(map[string]any)
	list, _ := d.c.attributes(name)["environment"].([]any)
	text := func(key string) string {
		s, _ := written[key].(string)
		for _, e := range list {
			if line, _ := e.(string); strings.HasPrefix(line, key+"=") {
				s = line
			}
		}
		return s
	}
	value := func(key, other string) string {
		if v := d.c.services[name].Environment[key]; v != nil && *v != "" {
			return *v
		}
		return other
	}
	user = value("POSTGRES_USER", "postgres")
	database = value("POSTGRES_DB", user)
	return user, database, d.c.deviceVariable(text("POSTGRES_USER")) == "" && d.c.deviceVariable(text("POSTGRES_DB")) == ""
}

// volumes are the named volumes of a service.
func (d *drafter) volumes(s types.ServiceConfig) []string {
	var names []string
	for _, v := range s.Volumes {
		if v.Type == types.VolumeTypeVolume && v.Source != "" && !v.ReadOnly {
			names = append(names, v.Source)
		}
	}
	return names
}

var (
	secretName = regexp.MustCompile(`PASSWORD|SECRET|KEY`)
	// foreignName are secrets of others, which cannot be made up here, and files.
	foreignName = regexp.MustCompile(`API_?KEY|ACCESS_?KEY|CLIENT_SECRET|PUBLIC|LICEN[CS]E|SMTP|MAIL|AWS|S3_|STRIPE|OAUTH|OIDC|GITHUB|GOOGLE|_FILE$|_PATH$|_ID$`)
	adminName   = regexp.MustCompile(`(^|_)(ADMIN|ROOT_?USER|INITIAL|SUPERUSER)_?.*PASSWORD`)
)

// variables proposes secrets for the variables that have no value before a device
// sets them.
func (d *drafter) variables() error {
	missing := map[string]bool{}
	for name, v := range template.ExtractVariables(d.c.model, template.DefaultPattern) {
		if name != d.p.VersionEnv && (v.Required || v.DefaultValue == "" && v.PresenceValue == "") {
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
	for name, value := range d.template {
		values[name] = cmp.Or(values[name], value)
		if value == "" && name != d.p.VersionEnv && bundle.ValidEnvKey(name) {
			missing[name] = true
		}
	}
	known := d.known(values, missing)
	data := d.dataVariables()
	var secrets, others, initial []string
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
		switch {
		case !secretName.MatchString(upper) || foreignName.MatchString(upper):
			if value, ok := known[name]; ok && file == "" {
				initial = append(initial, fmt.Sprintf("  %s: {initial: %s} # as in %s", name, quote(value), from))
			} else if file == "" {
				others = append(others, name)
			}
		case data:
			secrets = append(secrets, fmt.Sprintf("  %s: {hex: 16, immutable: true%s} # the database keeps it: a lost one is an error, never a new one", name, at))
		case adminName.MatchString(upper):
			secrets = append(secrets, fmt.Sprintf("  %s: {hex: 8, show: once%s} # shown to whoever installs", name, at))
		case strings.Contains(upper, "PASSWORD"):
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
		if name, ok := strings.CutPrefix(r.user, refSecret+" "); ok && bundle.ValidEnvKey(name) && bundle.LocalPath(r.file) && !missing[name] {
			add(name, r.file, d.databaseSecret(name))
		}
	}
	if len(secrets) > 0 {
		d.section("What is generated on the device at the first installation.")
		d.text.WriteString("secrets:\n" + strings.Join(secrets, "\n") + "\n")
	}
	if len(initial) > 0 {
		d.section("What an environment file on a device begins with; a default counts when a release is built too.")
		d.text.WriteString("env:\n" + strings.Join(initial, "\n") + "\n")
	}
	if len(others) > 0 {
		d.section("To be set on the device by whoever installs: %s", strings.Join(others, ", "))
	}
	return nil
}

// known are the values that the project has of variables the compose file reads; all
// of them when a service gets the whole file. They are added to missing: a device has
// none of them by itself.
func (d *drafter) known(values map[string]string, missing map[string]bool) map[string]string {
	used := template.ExtractVariables(d.c.model, template.DefaultPattern)
	known := map[string]string{}
	for name, value := range values {
		v, ok := used[name]
		if value == "" || !ok && !d.c.readsEnv() || v.DefaultValue == value || name == d.p.VersionEnv || strings.HasPrefix(name, "COMPOSE_") || !bundle.ValidEnvKey(name) || strings.ContainsAny(value, "\n\x00") {
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
		if database(s.Image) == "" {
			continue
		}
		section := map[string]any{"environment": d.c.attributes(name)["environment"]}
		for variable := range template.ExtractVariables(section, template.DefaultPattern) {
			found[variable] = true
		}
	}
	return found
}

// databaseSecret reports whether a database reads a compose secret.
func (d *drafter) databaseSecret(name string) bool {
	for _, s := range d.c.services {
		for _, secret := range s.Secrets {
			if secret.Source == name && database(s.Image) != "" {
				return true
			}
		}
	}
	return false
}
