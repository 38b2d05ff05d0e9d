-- The schema `safecopy` in the target: the lock, the receipts, and the staging tables of living runs.
-- Every statement may be run again. Logged tables only: an unlogged lock is emptied by crash recovery,
-- and its tokens would start again.

-- name: guard
-- Two first runs at once: the second waits here, and then finds everything made.
SELECT pg_advisory_xact_lock(hashtextextended('safecopy.schema', 0))

-- name: present
-- Read from the catalog: a role without USAGE may not even ask to_regclass for what is in the schema.
SELECT count(c.oid) = 2 AS made, count(n.oid) > 0 AS schema_made
FROM pg_namespace n
LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relkind = 'r' AND c.relname IN ('lock', 'receipt')
WHERE n.nspname = 'safecopy'

-- name: usable
SELECT CASE WHEN has_schema_privilege('safecopy', 'USAGE') THEN
           has_schema_privilege('safecopy', 'CREATE')
           AND has_table_privilege('safecopy.lock', 'SELECT') AND has_table_privilege('safecopy.lock', 'INSERT')
           AND has_table_privilege('safecopy.lock', 'UPDATE')
           AND has_table_privilege('safecopy.receipt', 'SELECT') AND has_table_privilege('safecopy.receipt', 'INSERT')
       ELSE false END

-- name: schema
CREATE SCHEMA IF NOT EXISTS safecopy

-- name: comment
COMMENT ON SCHEMA safecopy IS 'SafeCopy: lock, receipts and staging tables. Layout 1.'

-- name: lock
-- One row per lock name, never deleted. `token` only grows. UNIQUE (name, token, lease_id) makes these key
-- columns: changing them conflicts with the FOR KEY SHARE that a publish holds until its COMMIT.
CREATE TABLE IF NOT EXISTS safecopy.lock (
    name       text PRIMARY KEY,
    token      bigint NOT NULL DEFAULT 0,
    lease_id   uuid,
    owner_key  text,
    granted_at timestamptz,
    UNIQUE (name, token, lease_id)
) WITH (fillfactor = 50)

-- name: receipt
-- The proof of a publish, committed with the data it proves.
CREATE TABLE IF NOT EXISTS safecopy.receipt (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    lock          text NOT NULL,
    token         bigint NOT NULL,
    lease_id      uuid NOT NULL,
    attempt       uuid NOT NULL UNIQUE,
    owner_key     text NOT NULL,
    source        text NOT NULL,
    target        text NOT NULL,
    row_count     bigint NOT NULL,
    previous_rows bigint NOT NULL,
    proof         jsonb NOT NULL,
    published_at  timestamptz NOT NULL DEFAULT clock_timestamp()
)

-- name: receipt_index
CREATE INDEX IF NOT EXISTS receipt_target ON safecopy.receipt (target, id)

-- name: grant_schema
GRANT USAGE, CREATE ON SCHEMA safecopy TO {}

-- name: grant_lock
GRANT SELECT, INSERT, UPDATE ON safecopy.lock TO {}

-- name: grant_receipt
GRANT SELECT, INSERT ON safecopy.receipt TO {}
