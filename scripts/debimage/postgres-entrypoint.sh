#!/bin/sh
# Starts PostgreSQL in the sample image, and makes the database first when the data directory is empty.
# Read only then: POSTGRES_USER (postgres), POSTGRES_PASSWORD or POSTGRES_PASSWORD_FILE, POSTGRES_DB (the user's name),
# POSTGRES_HOST_AUTH_METHOD (scram-sha-256). The local socket needs no password, the network does.
set -eu

die() {
	echo "postgres-entrypoint: $*" >&2
	exit 1
}

# make_database DIR: a complete database in the empty directory DIR.
make_database() {
	user=${POSTGRES_USER:-postgres}
	database=${POSTGRES_DB:-$user}
	method=${POSTGRES_HOST_AUTH_METHOD:-scram-sha-256}
	password=${POSTGRES_PASSWORD:-}
	if [ -n "${POSTGRES_PASSWORD_FILE:-}" ]; then
		password=$(cat "$POSTGRES_PASSWORD_FILE")
	fi
	set -- --pgdata="$1" --username="$user" --encoding=UTF8 --locale=C.UTF-8 --auth-local=trust --auth-host="$method"
	if [ -n "$password" ]; then
		printf '%s\n' "$password" | initdb "$@" --pwfile=/dev/stdin
	elif [ "$method" = trust ]; then
		initdb "$@"
	else
		die "set POSTGRES_PASSWORD: the database has no password yet"
	fi
	printf 'host all all all %s\n' "$method" >>"$new/pg_hba.conf"
	printf "listen_addresses = '*'\n" >>"$new/postgresql.conf"
	if [ "$database" != postgres ]; then
		quoted=$(printf '%s' "$database" | sed 's/"/""/g')
		printf 'CREATE DATABASE "%s"\n' "$quoted" |
			postgres --single -D "$new" -c exit_on_error=on postgres >/dev/null
	fi
}

case ${1:-postgres} in
-*) set -- postgres "$@" ;;
postgres) ;;
*) exec "$@" ;;
esac

[ "$(id -u)" -ne 0 ] || die "PostgreSQL does not run as root: remove the user setting of this container"
[ -w "$PGDATA" ] || die "cannot write to $PGDATA: it must belong to user 100, group 102"

# The power may go at any moment. So the database is made in .new, moved up when it is complete and on disk, and
# PG_VERSION goes last: as long as that is missing, no client ever saw the database, and it can be made again.
new=$PGDATA/.new
if [ ! -e "$PGDATA/PG_VERSION" ]; then
	if [ ! -e "$new" ]; then
		other=$(find "$PGDATA" -mindepth 1 -maxdepth 1 ! -name lost+found)
		[ -z "$other" ] || die "$PGDATA is neither empty nor a database"
	fi
	find "$PGDATA" -mindepth 1 -maxdepth 1 ! -name lost+found ! -name .new -exec rm -rf {} +
	rm -rf "$new"
	mkdir -m 0700 "$new"
	make_database "$new"
	chmod 0700 "$PGDATA"
	sync
	find "$new" -mindepth 1 -maxdepth 1 ! -name PG_VERSION -exec mv {} "$PGDATA/" \;
	sync
	mv "$new/PG_VERSION" "$PGDATA/"
	sync
fi
rm -rf "$new"

exec "$@"
