#!/bin/sh
# The logins of llmteam, when the data folder is made. They own nothing; what they may do is granted by 20-roles.sql.
set -eu
psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --username="$POSTGRES_USER" --dbname="$POSTGRES_DB" <<'SQL'
\set password `cat "$DATABASE_PASSWORD_FILE"`
CREATE ROLE llmteam_login LOGIN NOINHERIT PASSWORD :'password';
\set password `cat "$MIGRATION_PASSWORD_FILE"`
CREATE ROLE llmteam_migration LOGIN NOINHERIT PASSWORD :'password';
SQL
