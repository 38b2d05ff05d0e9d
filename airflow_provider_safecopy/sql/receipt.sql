-- The receipt: the proof of a publish, committed with the data it proves.

-- name: durable
-- What was reported as published must survive a crash, whatever the role's default says.
SELECT set_config('synchronous_commit',
                  CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on'
                       ELSE current_setting('synchronous_commit') END, true)

-- name: relaxed
-- For the rest of the session, whatever is lost with a crash unless it is made durable as above: what is made only to
-- be dropped again. Where the configuration asks for more than a flush, nothing is changed.
SELECT set_config('synchronous_commit', 'off', false) WHERE current_setting('synchronous_commit') = 'on'

-- name: write
INSERT INTO safecopy.receipt (lock, token, lease_id, attempt, owner_key, source, target, row_count, previous_rows, proof,
                              write_mode, slice, origin, inserted, updated, deleted, unchanged, watermark,
                              follows, target_state)
VALUES (%(lock)s, %(token)s, %(lease_id)s, %(attempt)s, %(owner_key)s, %(source)s, %(target)s,
        %(row_count)s, %(previous_rows)s, %(proof)s, %(write_mode)s, %(slice)s, %(origin)s,
        %(inserted)s, %(updated)s, %(deleted)s, %(unchanged)s, %(watermark)s, %(follows)s,
        pg_catalog.jsonb_build_object(
            'ledger', 'safecopy.receipt'::pg_catalog.regclass::pg_catalog.oid, 'empty', %(was_empty)s::pg_catalog.bool,
            'oid', (SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                    WHERE n.nspname::pg_catalog.text = %(schema)s::pg_catalog.text
                      AND c.relname::pg_catalog.text = %(name)s::pg_catalog.text))
        -- `files`: of the table or its partitions that got rows; all files if the server does not count rows (`counted`).
        -- `leaves`: all of these tables, whether they got rows or not. A replace leaves no slice to look for.
        || CASE WHEN %(write_mode)s::pg_catalog.text = 'replace' THEN '{}'::pg_catalog.jsonb ELSE
           (SELECT pg_catalog.jsonb_build_object(
                'files', COALESCE(pg_catalog.jsonb_object_agg(leaf.oid::pg_catalog.text, leaf.file)
                         FILTER (WHERE leaf.inserted > 0 OR leaf.most = 0 AND %(inserted)s::pg_catalog.int8 > 0), '{}'),
                'leaves', COALESCE(pg_catalog.jsonb_agg(leaf.oid::pg_catalog.int8), '[]'),
                'counted', COALESCE(pg_catalog.max(leaf.most) > 0, false))
            FROM (SELECT t.oid, pg_catalog.pg_relation_filenode(t.oid) AS file, stat.inserted,
                         pg_catalog.max(stat.inserted) OVER () AS most
                  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                  CROSS JOIN LATERAL (SELECT relid::pg_catalog.oid AS oid FROM pg_catalog.pg_partition_tree(c.oid)
                                      UNION SELECT c.oid) AS t
                  CROSS JOIN LATERAL (SELECT pg_catalog.pg_stat_get_xact_tuples_inserted(t.oid) AS inserted) AS stat
                  WHERE n.nspname::pg_catalog.text = %(schema)s::pg_catalog.text
                    AND c.relname::pg_catalog.text = %(name)s::pg_catalog.text
                    AND pg_catalog.pg_relation_filenode(t.oid) IS NOT NULL) AS leaf) END)
RETURNING to_char(published_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS published_at

-- name: settled
SELECT count(*) FROM safecopy.receipt WHERE attempt = %(attempt)s AND token = %(token)s

-- name: of_slice
-- The last receipt of an appended slice, and signs that its rows are gone. `last` is the receipt the next one follows:
-- the last of the slice under this name. Since then: `replaced`, the table was replaced; `emptied`, it was found empty;
-- `thinned`, a copy has deleted rows; `overwritten`, a copy into one of its partitions or parents has replaced or deleted
-- rows; `another`, it was made anew. The table is known by its OID, whatever its name was; by its name only where
-- a receipt has no valid OID (of an older version, or of a ledger that was itself restored from a dump).
-- Of the files that got rows: how many belong to none of its tables any more (`gone`), and the tables whose file is still
-- the same (kept) or new (rewritten). A `later` table got none; it was attached since, or is a default partition.
-- It may hold rows of a partition that is gone, or of a default partition (`elsewhere`).
SELECT r.id, r.source, r.origin, r.lock, r.token, r.attempt::text AS attempt, r.inserted,
       r.proof #>> '{digest,exported}' AS digest, (r.proof #>> '{bytes,exported}')::bigint AS bytes,
       r.proof ->> 'read' AS read,
       to_char(r.published_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS published_at,
       COALESCE((SELECT max(named.id) FROM safecopy.receipt named WHERE named.target = %(target)s
                 AND named.slice = %(slice)s AND named.write_mode = 'append'), r.id) AS last,
       since.replaced, since.emptied, since.thinned, since.overwritten,
       COALESCE((known.state ->> 'oid')::oid <> %(oid)s::oid, false) AS another,
       COALESCE((known.state ->> 'counted')::bool, false) AS counted,
       leaves.gone, leaves.elsewhere, leaves.schemas, leaves.names, leaves.fates, leaves.readable
FROM safecopy.receipt r
CROSS JOIN LATERAL (SELECT CASE WHEN (r.target_state ->> 'ledger')::oid = r.tableoid THEN r.target_state END AS state) AS known
CROSS JOIN LATERAL (
    SELECT COALESCE(bool_or(itself AND write_mode = 'replace'), false) AS replaced,
           COALESCE(bool_or(itself AND oid IS NOT NULL AND empty), false) AS emptied,
           COALESCE(bool_or(itself AND deleted > 0 AND missing = 'delete'), false) AS thinned,
           COALESCE(bool_or(related AND (write_mode = 'replace' OR deleted > 0)), false) AS overwritten
    FROM (SELECT later.write_mode, later.deleted, later.proof ->> 'missing' AS missing, at.oid,
                 (later.target_state ->> 'empty')::bool AS empty,
                 COALESCE(at.oid = %(oid)s::oid, later.target = r.target) AS itself,
                 later.target = ANY (%(kin)s::text[]) OR at.oid = ANY (kin.oids) AS related
          FROM safecopy.receipt later
          CROSS JOIN (SELECT ARRAY(SELECT relid::oid FROM pg_partition_tree(%(oid)s::oid)
                                   UNION SELECT relid::oid FROM pg_partition_ancestors(%(oid)s::oid)
                                   EXCEPT SELECT %(oid)s::oid) AS oids) AS kin
          CROSS JOIN LATERAL (SELECT CASE WHEN (later.target_state ->> 'ledger')::oid = later.tableoid
                                          THEN (later.target_state ->> 'oid')::oid END AS oid) AS at
          WHERE later.id > r.id) AS publish
) AS since
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE fate = 'gone') AS gone,
           COALESCE(bool_or(fate = 'gone' OR fate IN ('kept', 'rewritten') AND is_default), false) AS elsewhere,
           COALESCE(array_agg(schema) FILTER (WHERE fate <> 'gone'), '{}') AS schemas,
           COALESCE(array_agg(name) FILTER (WHERE fate <> 'gone'), '{}') AS names,
           COALESCE(array_agg(fate) FILTER (WHERE fate <> 'gone'), '{}') AS fates,
           COALESCE(array_agg(may_read) FILTER (WHERE fate <> 'gone'), '{}') AS readable
    FROM (
        SELECT leaf.schema, leaf.name, leaf.may_read, leaf.is_default,
               CASE WHEN leaf.oid IS NULL THEN 'gone' WHEN leaf.file::text = f.file THEN 'kept'
                    WHEN f.oid IS NOT NULL THEN 'rewritten'
                    WHEN leaf.is_default OR NOT COALESCE(known.state -> 'leaves' @> to_jsonb(leaf.oid::int8), false)
                        THEN 'later' END AS fate
        FROM jsonb_each_text(known.state -> 'files') AS f(oid, file)
        FULL JOIN (
            SELECT c.oid, pg_relation_filenode(c.oid) AS file, n.nspname::text AS schema, c.relname::text AS name,
                   has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT') AS may_read,
                   EXISTS (SELECT FROM pg_partition_ancestors(c.oid) a JOIN pg_class p ON p.oid = a.relid
                           WHERE pg_get_expr(p.relpartbound, p.oid) = 'DEFAULT') AS is_default
            FROM (SELECT relid::oid AS oid FROM pg_partition_tree(%(oid)s::oid) UNION SELECT %(oid)s::oid) AS t
            JOIN pg_class c USING (oid) JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE c.relkind <> 'p'
        ) AS leaf ON leaf.oid = f.oid::oid
    ) AS each
) AS leaves
WHERE r.slice = %(slice)s AND r.write_mode = 'append'
  AND (r.target = %(target)s OR (known.state ->> 'oid')::oid = %(oid)s::oid AND %(oid)s::oid <> 0)
-- The table itself, by whatever name it had then, goes before another that had its name.
ORDER BY COALESCE((known.state ->> 'oid')::oid = %(oid)s::oid, false) DESC, r.id DESC LIMIT 1

-- name: last_of_slice
-- Inside the publish: the receipt that the next receipt of the slice follows.
SELECT id, token, to_char(published_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS published_at
FROM safecopy.receipt WHERE target = %(target)s AND slice = %(slice)s AND write_mode = 'append'
ORDER BY id DESC LIMIT 1

-- name: of_sibling
-- Another instance of the same mapped task that has replaced the rows of the same target in this run.
SELECT proof ->> 'member' AS member, to_char(published_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS published_at
FROM safecopy.receipt
WHERE target = %(target)s AND write_mode = 'replace' AND proof ->> 'run' = %(run)s::text AND proof ->> 'task' = %(task)s::text
  AND proof ->> 'member' <> %(member)s::text
ORDER BY id DESC LIMIT 1
