-- Roles and schema of llmteam; needs Postgres 16 or newer. Run as superuser. On a managed
-- server without one: the lines that create roles, then GRANT llmteam_owner TO CURRENT_USER, then the rest.
DO $$ BEGIN CREATE ROLE llmteam_owner NOLOGIN NOINHERIT; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$;
DO $$ BEGIN CREATE ROLE llmteam_app NOLOGIN NOINHERIT; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$;
DO $$ BEGIN CREATE ROLE llmteam_sweeper NOLOGIN NOINHERIT; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$;
-- The login owns nothing and inherits nothing: ALTER ROLE "llmteam_login" NOSUPERUSER NOBYPASSRLS
GRANT llmteam_owner, llmteam_app, llmteam_sweeper TO "llmteam_login" WITH INHERIT FALSE, SET TRUE;
CREATE SCHEMA IF NOT EXISTS llmteam AUTHORIZATION llmteam_owner;
GRANT USAGE ON SCHEMA llmteam TO llmteam_app, llmteam_sweeper;
