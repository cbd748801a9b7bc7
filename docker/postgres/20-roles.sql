-- Roles and schema of llmteam; needs Postgres 16 or newer. Run as superuser. On a managed
-- server without one: the lines that create roles, then GRANT llmteam_owner TO CURRENT_USER, then the rest.
DO $$ BEGIN CREATE ROLE llmteam_owner NOLOGIN NOINHERIT; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$;
DO $$ BEGIN CREATE ROLE llmteam_app NOLOGIN NOINHERIT; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$;
DO $$ BEGIN CREATE ROLE llmteam_sweeper NOLOGIN NOINHERIT; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$;
-- Both logins have to be there: CREATE ROLE … LOGIN NOINHERIT PASSWORD '…'. They own and inherit nothing:
-- ALTER ROLE "llmteam_login" NOSUPERUSER NOBYPASSRLS
-- ALTER ROLE "llmteam_migration" NOSUPERUSER NOBYPASSRLS
-- Of LLMTEAM_MIGRATION_URL, which llmteam db upgrade uses and nothing else needs:
GRANT llmteam_owner TO "llmteam_migration" WITH INHERIT FALSE, SET TRUE;
-- Of LLMTEAM_DATABASE_URL, which everything uses that runs; Postgres warns when there is nothing to revoke:
GRANT llmteam_app, llmteam_sweeper TO "llmteam_login" WITH INHERIT FALSE, SET TRUE;
REVOKE llmteam_owner FROM "llmteam_login";
CREATE SCHEMA IF NOT EXISTS llmteam AUTHORIZATION llmteam_owner;
GRANT USAGE ON SCHEMA llmteam TO llmteam_app, llmteam_sweeper;
