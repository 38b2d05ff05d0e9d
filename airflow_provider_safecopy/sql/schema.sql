-- The schema `safecopy` in the target: the lock, the ledger (receipts and watermarks), and the staging tables of
-- living runs.
-- Every statement may be run again. Logged tables only: an unlogged lock is emptied by crash recovery,
-- and its tokens would start again.

-- name: guard
-- Two first runs at once: the second waits here, and then finds everything made.
SELECT pg_advisory_xact_lock(hashtextextended('safecopy.schema', 0))

-- name: present
-- Read from the catalog: a role without USAGE may not even ask to_regclass for what is in the schema. `mine`: an
-- earlier layout that this role may bring up.
SELECT count(c.oid) = 5 AND count(a.attname) = 3 AS made, count(n.oid) > 0 AS schema_made,
       COALESCE(bool_and(pg_has_role(n.nspowner, 'USAGE') AND (c.oid IS NULL OR pg_has_role(c.relowner, 'USAGE'))), false)
           AS mine, max(n.oid::bigint) AS oid
FROM pg_namespace n
LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relkind = 'r'
                    AND c.relname IN ('lock', 'member', 'lock_event', 'receipt', 'watermark')
LEFT JOIN pg_attribute a ON a.attrelid = c.oid
                        AND (c.relname::text, a.attname::text) IN (('lock', 'members'), ('receipt', 'target_state'),
                                                                 ('watermark', 'target_files'))
WHERE n.nspname = 'safecopy'

-- name: usable
SELECT CASE WHEN has_schema_privilege('safecopy', 'USAGE') THEN
           has_schema_privilege('safecopy', 'CREATE')
           AND has_table_privilege('safecopy.lock', 'SELECT') AND has_table_privilege('safecopy.lock', 'INSERT')
           AND has_table_privilege('safecopy.lock', 'UPDATE')
           AND has_table_privilege('safecopy.member', 'SELECT') AND has_table_privilege('safecopy.member', 'INSERT')
           AND has_table_privilege('safecopy.member', 'UPDATE') AND has_table_privilege('safecopy.member', 'DELETE')
           AND has_table_privilege('safecopy.lock_event', 'SELECT')
           AND has_table_privilege('safecopy.lock_event', 'INSERT')
           AND has_table_privilege('safecopy.lock_event', 'DELETE')
           AND has_table_privilege('safecopy.receipt', 'SELECT') AND has_table_privilege('safecopy.receipt', 'INSERT')
           AND has_table_privilege('safecopy.watermark', 'SELECT')
           AND has_table_privilege('safecopy.watermark', 'INSERT')
           AND has_table_privilege('safecopy.watermark', 'UPDATE')
           AND has_table_privilege('safecopy.watermark', 'DELETE')
       ELSE false END

-- name: lacking
-- Which of the privileges above it is that this role lacks; by number, because a role without USAGE may not ask by name.
SELECT told FROM (
    SELECT 0 AS at, p.ordinality, p.privilege || ' on schema safecopy' AS told
    FROM pg_namespace n, unnest('{USAGE,CREATE}'::text[]) WITH ORDINALITY AS p(privilege)
    WHERE n.nspname = 'safecopy' AND NOT has_schema_privilege(n.oid, p.privilege)
    UNION ALL
    SELECT t.at, p.ordinality, p.privilege || ' on safecopy.' || c.relname
    FROM (VALUES (1, 'lock', '{SELECT,INSERT,UPDATE}'::text[]), (2, 'member', '{SELECT,INSERT,UPDATE,DELETE}'),
                 (3, 'lock_event', '{SELECT,INSERT,DELETE}'), (4, 'receipt', '{SELECT,INSERT}'),
                 (5, 'watermark', '{SELECT,INSERT,UPDATE,DELETE}')) AS t(at, relname, privileges)
    JOIN pg_class c ON c.relname::text = t.relname JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = 'safecopy',
    unnest(t.privileges) WITH ORDINALITY AS p(privilege)
    WHERE NOT has_table_privilege(c.oid, p.privilege)
) AS lacks(at, ordinality, told) ORDER BY at, ordinality

-- name: schema
CREATE SCHEMA IF NOT EXISTS safecopy

-- name: comment
COMMENT ON SCHEMA safecopy IS 'SafeCopy: lock, receipts, watermarks and staging tables. Layout 4.'

-- name: lock
-- One row per lock name, never deleted. `token` only grows: by one with each change of owner.
CREATE TABLE IF NOT EXISTS safecopy.lock (
    name       text PRIMARY KEY,
    token      bigint NOT NULL DEFAULT 0,
    lease_id   uuid,
    owner_key  text,
    granted_at timestamptz,
    UNIQUE (name, token, lease_id)
) WITH (fillfactor = 50)

-- name: lock_columns
-- Apart, because layout 1 had the table without them. UNIQUE (name, token, lease_id) makes these key columns:
-- changing them conflicts with the FOR KEY SHARE that a publish holds until its COMMIT. `stale_after` and
-- `crash_grace` are the holder's promise: contenders never bring their own.
ALTER TABLE safecopy.lock
    ADD COLUMN IF NOT EXISTS owner          jsonb,
    ADD COLUMN IF NOT EXISTS members        jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN IF NOT EXISTS alive_at       timestamptz,
    ADD COLUMN IF NOT EXISTS due_at         timestamptz,
    ADD COLUMN IF NOT EXISTS stale_after    interval,
    ADD COLUMN IF NOT EXISTS crash_grace    interval,
    ADD COLUMN IF NOT EXISTS not_before     timestamptz NOT NULL DEFAULT '-infinity',
    ADD COLUMN IF NOT EXISTS last_kind      text,
    ADD COLUMN IF NOT EXISTS prev_owner_key text,
    ADD COLUMN IF NOT EXISTS prev_owner     jsonb,
    ADD COLUMN IF NOT EXISTS prev_token     bigint,
    ADD COLUMN IF NOT EXISTS prev_members   jsonb

-- name: lock_of_layout_1
-- Its holders had no members and beat no heart: fence them out.
UPDATE safecopy.lock SET token = token + 1, lease_id = NULL, owner_key = NULL
WHERE lease_id IS NOT NULL AND members = '{}'

-- name: member
-- The attempts of the present owner. UNIQUE with `member_id`: the same trick for the fence of one attempt.
CREATE TABLE IF NOT EXISTS safecopy.member (
    name          text NOT NULL,
    token         bigint NOT NULL,
    member_key    text NOT NULL,
    member_id     uuid NOT NULL,
    try_number    int NOT NULL,
    place         jsonb,
    joined_at     timestamptz NOT NULL,
    heartbeat_at  timestamptz NOT NULL,
    progressed_at timestamptz NOT NULL,
    phase         int NOT NULL DEFAULT 0,
    count         bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (name, token, member_key),
    UNIQUE (name, token, member_key, member_id)
) WITH (fillfactor = 50)

-- name: lock_event
CREATE TABLE IF NOT EXISTS safecopy.lock_event (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name           text NOT NULL,
    token          bigint NOT NULL,
    kind           text NOT NULL,
    owner_key      text,
    owner          jsonb,
    member_key     text,
    attempt        uuid,
    prev_owner_key text,
    at             timestamptz NOT NULL DEFAULT clock_timestamp(),
    detail         jsonb
)

-- name: lock_event_index
CREATE INDEX IF NOT EXISTS lock_event_name ON safecopy.lock_event (name, id)

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

-- name: receipt_columns
-- Apart, because layouts 1 and 2 had the table without them; all they wrote was a replace. `origin` says what was read,
-- as a digest. An append does not count the whole table: its `row_count` and `previous_rows` are NULL. `target_state` is
-- how the target was found and left, by OIDs, since names change: it shows a later copy whether the rows are still
-- there. `follows` is the receipt of the same slice whose rows are gone, or 0.
ALTER TABLE safecopy.receipt
    ADD COLUMN IF NOT EXISTS write_mode text NOT NULL DEFAULT 'replace',
    ADD COLUMN IF NOT EXISTS slice      text,
    ADD COLUMN IF NOT EXISTS origin     text,
    ADD COLUMN IF NOT EXISTS inserted   bigint,
    ADD COLUMN IF NOT EXISTS updated    bigint,
    ADD COLUMN IF NOT EXISTS deleted    bigint,
    ADD COLUMN IF NOT EXISTS unchanged  bigint,
    ADD COLUMN IF NOT EXISTS watermark  jsonb,
    ADD COLUMN IF NOT EXISTS follows    bigint NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS target_state jsonb,
    ALTER COLUMN row_count DROP NOT NULL,
    ALTER COLUMN previous_rows DROP NOT NULL

-- name: receipt_slice
-- A slice is appended to a target once, and once more when its rows are gone: not even two runs that both believe they
-- hold the lock can do it twice. Layout 3 had the index without `follows`.
DROP INDEX IF EXISTS safecopy.receipt_slice;
CREATE UNIQUE INDEX receipt_slice ON safecopy.receipt (target, slice, follows) WHERE write_mode = 'append'

-- name: receipt_texts
-- Layout 3 kept the text of `where` and of queries, and with it the values in them. The rest says where it was read.
UPDATE safecopy.receipt SET proof = proof - 'read' WHERE proof ? 'read' AND target_state IS NULL

-- name: watermark
-- How far a target has read an origin. Losing a row of it costs no more than reading everything once more.
CREATE TABLE IF NOT EXISTS safecopy.watermark (
    target        text NOT NULL,
    origin        text NOT NULL,
    source        text NOT NULL,
    cursor_column text NOT NULL,
    type          text NOT NULL,
    value         text NOT NULL,
    basis         text NOT NULL,
    target_oid    oid NOT NULL,
    token         bigint NOT NULL,
    updated_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (target, origin)
)

-- name: watermark_columns
-- Separate, because layout 3 had the table without it: the files of the target when the watermark was set.
ALTER TABLE safecopy.watermark ADD COLUMN IF NOT EXISTS target_files jsonb

-- name: watermark_texts
UPDATE safecopy.watermark SET source = regexp_replace(regexp_replace(source, ' WHERE .*$', ''), '^(\S+) \(.*$', '\1 the query')
WHERE target_files IS NULL

-- name: grant_schema
GRANT USAGE, CREATE ON SCHEMA safecopy TO {}

-- name: grant_lock
GRANT SELECT, INSERT, UPDATE ON safecopy.lock TO {}

-- name: grant_member
GRANT SELECT, INSERT, UPDATE, DELETE ON safecopy.member TO {}

-- name: grant_lock_event
GRANT SELECT, INSERT, DELETE ON safecopy.lock_event TO {}

-- name: grant_receipt
GRANT SELECT, INSERT ON safecopy.receipt TO {}

-- name: grant_watermark
GRANT SELECT, INSERT, UPDATE, DELETE ON safecopy.watermark TO {}
