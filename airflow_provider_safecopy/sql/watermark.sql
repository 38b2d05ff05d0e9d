-- The watermark: how far a target has read an origin. Where one is missing, everything is read once more.

-- name: readable
-- Whether the ledger is there, in this layout, for this role. A role without USAGE may not even name what is in it.
SELECT count(*) = 2
FROM pg_namespace n JOIN pg_class c ON c.relnamespace = n.oid
WHERE n.nspname = 'safecopy' AND has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')
  AND (c.relname = 'watermark' OR c.relname = 'receipt'
       AND EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'target_state'))

-- name: of_origin
-- `moved`: a table of the target has a new file. TRUNCATE creates one, and so does a rewrite that keeps all
-- rows, such as VACUUM FULL; added or removed partitions do not count. Since then, whatever the name was: `overwritten`, a
-- copy into one of its partitions or parents has replaced or deleted rows; `changed`, one into itself has, or found it empty.
-- Under its own name, the watermark would be gone. The receipt of the run that set it bounds the receipts to read.
SELECT w.value, w.type, w.basis, w.target_oid = %(oid)s::oid AND w.target_oid <> 0 AS same_target,
       EXISTS (SELECT FROM jsonb_each_text(w.target_files) AS f(oid, file)
               WHERE pg_relation_filenode(f.oid::oid)::text <> f.file
                 AND (f.oid::oid = %(oid)s::oid OR f.oid::oid IN (SELECT relid FROM pg_partition_tree(%(oid)s::oid)))) AS moved,
       since.overwritten, since.changed
FROM safecopy.watermark w
CROSS JOIN LATERAL (
    SELECT COALESCE(bool_or(related AND (write_mode = 'replace' OR deleted > 0)), false) AS overwritten,
           COALESCE(bool_or(oid = %(oid)s::oid AND (write_mode = 'replace' OR deleted > 0 OR empty)), false) AS changed
    FROM (SELECT later.write_mode, later.deleted, (later.target_state ->> 'empty')::bool AS empty, at.oid,
                 later.target = ANY (%(kin)s::text[]) OR at.oid = ANY (kin.oids) AS related
          FROM safecopy.receipt later
          CROSS JOIN (SELECT ARRAY(SELECT relid::oid FROM pg_partition_tree(%(oid)s::oid)
                                   UNION SELECT relid::oid FROM pg_partition_ancestors(%(oid)s::oid)
                                   EXCEPT SELECT %(oid)s::oid) AS oids) AS kin
          CROSS JOIN LATERAL (SELECT CASE WHEN (later.target_state ->> 'ledger')::oid = later.tableoid
                                          THEN (later.target_state ->> 'oid')::oid END AS oid) AS at
          WHERE later.published_at > w.updated_at
            AND later.id > COALESCE((SELECT put.id FROM safecopy.receipt put
                                     WHERE put.target = w.target AND put.origin = w.origin AND put.published_at <= w.updated_at
                                     ORDER BY put.id DESC LIMIT 1), 0)) AS publish
) AS since
WHERE w.target = %(target)s AND w.origin = %(origin)s

-- name: put
-- Only in the place of the one that was read from (`stored`), if there was one: a person who deleted that meanwhile wants
-- everything read again. The target's oid is asked for only now: it may have been made in this very transaction.
INSERT INTO safecopy.watermark AS w
    (target, origin, source, cursor_column, type, value, basis, target_oid, token, target_files)
SELECT %(target)s, %(origin)s, %(source)s, %(cursor_column)s, %(type)s, %(value)s, %(basis)s,
       COALESCE((SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                 WHERE n.nspname::text = %(schema)s::text AND c.relname::text = %(name)s::text), 0), %(token)s,
       (SELECT jsonb_object_agg(t.oid::text, pg_relation_filenode(t.oid))
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        CROSS JOIN LATERAL (SELECT relid::oid AS oid FROM pg_partition_tree(c.oid) UNION SELECT c.oid) AS t
        WHERE n.nspname::text = %(schema)s::text AND c.relname::text = %(name)s::text
          AND pg_relation_filenode(t.oid) IS NOT NULL)
WHERE %(stored)s::text IS NULL
   OR EXISTS (SELECT FROM safecopy.watermark WHERE target = %(target)s AND origin = %(origin)s)
ON CONFLICT (target, origin) DO UPDATE
SET type = EXCLUDED.type, value = EXCLUDED.value, basis = EXCLUDED.basis, target_oid = EXCLUDED.target_oid,
    target_files = EXCLUDED.target_files, token = EXCLUDED.token, updated_at = EXCLUDED.updated_at
WHERE w.value = %(stored)s::text

-- name: forget_origin
DELETE FROM safecopy.watermark WHERE target = %(target)s AND origin = %(origin)s

-- name: forget_target
DELETE FROM safecopy.watermark WHERE target = %(target)s

-- name: system
-- What stays the same when a standby takes over, and changes where another cluster answers under the same name.
SELECT system_identifier::text FROM pg_control_system()

-- name: may_ask_system
SELECT has_function_privilege('pg_catalog.pg_control_system()', 'EXECUTE')

-- name: made_of
-- What a name stands for: a table made anew under it, or a view defined anew, may hold what was never read.
SELECT c.oid::text || COALESCE(' ' || pg_get_viewdef(c.oid), '') FROM pg_class c WHERE c.oid = %(oid)s
