package main

import (
	_ "embed"
	"strings"
)

const dataDir = "/var/lib/postgresql/data"

var basePackages = []string{"busybox-static", "libc-bin", "libc6", "tzdata"}

// postgresPackages names the server, the client, and every library that they load. It is written down because a
// server runs without most of what its package depends on (perl, LLVM, user management, debconf). tree.check
// fails when a library is missing here.
var postgresPackages = []string{
	"postgresql-15", "postgresql-client-15",
	"libaudit1", "libbsd0", "libcap-ng0", "libcap2", "libcom-err2", "libedit2", "libffi8", "libgcc-s1", "libgcrypt20",
	"libgmp10", "libgnutls30", "libgpg-error0", "libgssapi-krb5-2", "libhogweed6", "libicu72", "libidn2-0",
	"libk5crypto3", "libkeyutils1", "libkrb5-3", "libkrb5support0", "libldap-2.5-0", "liblz4-1", "liblzma5", "libmd0",
	"libnettle8", "libp11-kit0", "libpam0g", "libpq5", "libreadline8", "libsasl2-2", "libssl3", "libstdc++6",
	"libsystemd0", "libtasn1-6", "libtinfo6", "libunistring2", "libxml2", "libzstd1", "zlib1g",
}

// applets are the commands that busybox answers to in the images.
var applets = strings.Fields(`[ ash awk basename cat chmod chown cp cut date dd df dirname du echo env expr false find
	free grep gunzip gzip head hostname id kill ln ls mkdir mktemp more mv nc nslookup ping printf ps pwd
	readlink realpath rm rmdir sed seq sh sha256sum sleep sort stat stty sync tail tar tee test timeout top touch tr
	true tty uname uniq vi wc wget which whoami xargs zcat`)

func makeBase(debs *debs) (tree, error) {
	t := tree{}
	if err := t.unpack(debs, basePackages, []string{
		"usr/bin/busybox",
		"usr/lib/*-linux-gnu/*.so*",
		"usr/lib/ld-linux*", "usr/lib64/ld-linux*",
		"usr/lib/locale/C.utf8/*", "usr/lib/locale/C.utf8/LC_MESSAGES/*",
		"usr/share/zoneinfo/UTC", "usr/share/zoneinfo/GMT", "usr/share/zoneinfo/Etc/UTC", "usr/share/zoneinfo/Etc/GMT",
	}); err != nil {
		return nil, err
	}
	for _, name := range applets {
		t.symlink("usr/bin/"+name, "busybox")
	}
	for _, name := range []string{"bin", "lib", "lib64"} {
		t.symlink(name, "usr/"+name)
	}
	t.symlink("sbin", "usr/bin")
	t.symlink("var/run", "../run")
	for _, name := range []string{"dev", "etc", "proc", "run", "srv", "sys", "usr/lib64", "usr/local/bin"} {
		t.dir(name, 0o755, 0, 0)
	}
	t.dir("root", 0o700, 0, 0)
	t.dir("tmp", 0o1777, 0, 0)
	t.dir("var/tmp", 0o1777, 0, 0)
	t.file("etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\n"+
		"postgres:x:100:102:PostgreSQL:/var/lib/postgresql:/bin/sh\n"+
		"nobody:x:65534:65534:nobody:/:/bin/sh\n")
	t.file("etc/group", 0o644, "root:x:0:\npostgres:x:102:\nnogroup:x:65534:\n")
	t.file("etc/nsswitch.conf", 0o644, "passwd: files\ngroup: files\nhosts: files dns\n")
	return t, nil
}

//go:embed postgres-entrypoint.sh
var postgresEntrypoint string

func makePostgres(debs *debs, base tree) (tree, error) {
	const lib, share = "usr/lib/postgresql/15/", "usr/share/postgresql/15/"
	t := tree{}
	keep := []string{
		lib + "lib/plpgsql.so", lib + "lib/dict_snowball.so", lib + "lib/*_and_*.so", // encodings
		lib + "lib/libpqwalreceiver.so", lib + "lib/pgoutput.so", // replication
		share + "*.bki", share + "*.sample", share + "*.sql", share + "sql_features.txt", // read by initdb
		share + "timezonesets/*", share + "tsearch_data/*.stop",
		share + "extension/plpgsql*",
	}
	for _, program := range []string{"createdb", "dropdb", "initdb", "pg_controldata", "pg_ctl", "pg_dump", "pg_dumpall",
		"pg_isready", "pg_restore", "postgres", "psql"} {
		keep = append(keep, lib+"bin/"+program)
	}
	if err := t.unpack(debs, postgresPackages, keep); err != nil {
		return nil, err
	}
	if err := t.addLibraries(debs, postgresPackages, base); err != nil {
		return nil, err
	}
	t.file("usr/local/bin/postgres-entrypoint", 0o755, postgresEntrypoint)
	t.dir("var/lib/postgresql", 0o755, 100, 102)
	t.dir(strings.TrimPrefix(dataDir, "/"), 0o700, 100, 102)
	t.dir("run/postgresql", 0o2775, 100, 102)
	return t, nil
}
