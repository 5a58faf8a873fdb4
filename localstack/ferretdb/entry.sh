#!/bin/sh
# Starts PostgreSQL with DocumentDB inside the container, then FerretDB in front of it on port 27017, without
# authentication: a server for tests.
set -eu

if [ ! -s "$PGDATA/PG_VERSION" ]; then
	initdb --auth=trust --username=postgres --encoding=UTF8 --locale=C.UTF-8 >/dev/null
	cat >>"$PGDATA/postgresql.conf" <<-END
		shared_preload_libraries = 'pg_cron,pg_documentdb_core,pg_documentdb'
		cron.database_name = 'postgres'
		listen_addresses = '127.0.0.1' # ferretdb takes no socket path
		unix_socket_directories = '/tmp'
		max_connections = 200
		jit = off
	END
fi
# A container that was killed leaves the file behind, and its process id may be another's by now.
rm -f "$PGDATA/postmaster.pid"
pg_ctl start --wait --silent --log=/tmp/postgres.log || { cat /tmp/postgres.log; exit 1; }
psql --host=127.0.0.1 --username=postgres --quiet --command='CREATE EXTENSION IF NOT EXISTS documentdb CASCADE' \
	2>/dev/null || { cat /tmp/postgres.log; exit 1; }
exec ferretdb --postgresql-url=postgres://postgres@127.0.0.1:5432/postgres --listen-addr=0.0.0.0:27017 \
	--state-dir=/tmp --no-auth --telemetry=disable --debug-addr=- --log-level=warn
