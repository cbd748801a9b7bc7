#!/bin/sh
# The login of llmteam, when the data folder is made. It owns nothing; what it may do is granted by 20-roles.sql.
set -eu
psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --username="$POSTGRES_USER" --dbname="$POSTGRES_DB" <<'SQL'
\set password `cat "$DATABASE_PASSWORD_FILE"`
CREATE ROLE llmteam_login LOGIN NOINHERIT PASSWORD :'password';
SQL
