-- The receipt: the proof of a publish, committed with the data it proves.

-- name: durable
-- What was reported as published must survive a crash, whatever the role's default says.
SELECT set_config('synchronous_commit',
                  CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on'
                       ELSE current_setting('synchronous_commit') END, true)

-- name: relaxed
-- For the rest of the session, whatever is lost with a crash unless it is made durable as above: what is made only to
-- be dropped again. Where somebody asked for more than a flush, nothing is changed.
SELECT set_config('synchronous_commit', 'off', false) WHERE current_setting('synchronous_commit') = 'on'

-- name: write
INSERT INTO safecopy.receipt (lock, token, lease_id, attempt, owner_key, source, target, row_count, previous_rows, proof,
                              write_mode, slice, origin, inserted, updated, deleted, unchanged, watermark,
                              follows, target_state)
VALUES (%(lock)s, %(token)s, %(lease_id)s, %(attempt)s, %(owner_key)s, %(source)s, %(target)s,
        %(row_count)s, %(previous_rows)s, %(proof)s, %(write_mode)s, %(slice)s, %(origin)s,
        %(inserted)s, %(updated)s, %(deleted)s, %(unchanged)s, %(watermark)s, %(follows)s,
        CASE WHEN %(write_mode)s::text <> 'replace' THEN pg_catalog.jsonb_build_object(
            'ledger', 'safecopy.receipt'::pg_catalog.regclass::pg_catalog.oid, 'empty', %(was_empty)s::pg_catalog.bool,
            'oid', (SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                    WHERE n.nspname::pg_catalog.text = %(schema)s::pg_catalog.text
                      AND c.relname::pg_catalog.text = %(name)s::pg_catalog.text),
            -- The files of the table or its partitions that got rows; all files if the server does not count rows.
            'files', (SELECT COALESCE(pg_catalog.jsonb_object_agg(leaf.oid::pg_catalog.text, leaf.file)
                             FILTER (WHERE leaf.inserted > 0 OR leaf.most = 0 AND %(inserted)s::pg_catalog.int8 > 0), '{}')
                      FROM (SELECT t.oid, pg_catalog.pg_relation_filenode(t.oid) AS file, stat.inserted,
                                   pg_catalog.max(stat.inserted) OVER () AS most
                            FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                            CROSS JOIN LATERAL (SELECT relid::pg_catalog.oid AS oid FROM pg_catalog.pg_partition_tree(c.oid)
                                                UNION SELECT c.oid) AS t
                            CROSS JOIN LATERAL (SELECT pg_catalog.pg_stat_get_xact_tuples_inserted(t.oid) AS inserted) AS stat
                            WHERE n.nspname::pg_catalog.text = %(schema)s::pg_catalog.text
                              AND c.relname::pg_catalog.text = %(name)s::pg_catalog.text
                              AND pg_catalog.pg_relation_filenode(t.oid) IS NOT NULL) AS leaf)) END)
RETURNING to_char(published_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS published_at

-- name: settled
SELECT count(*) FROM safecopy.receipt WHERE attempt = %(attempt)s AND token = %(token)s

-- name: of_slice
-- The last receipt of an appended slice, and signs that its rows are gone. Since then: `replaced`, the table was replaced;
-- `overwritten`, a copy into one of its partitions or parents replaced or deleted rows; `emptied`, it was found empty; `another`, it was made anew; `thinned`, a copy has deleted rows. Of the files that got
-- rows: how many are still the same (`kept`), how many belong to none of its tables any more (`gone`), and which tables
-- have a new one. A ledger that was itself restored from a dump has no valid OIDs and files.
SELECT r.id, r.source, r.origin, r.lock, r.token, r.attempt::text AS attempt, r.inserted,
       r.proof #>> '{digest,exported}' AS digest, (r.proof #>> '{bytes,exported}')::bigint AS bytes,
       r.proof ->> 'read' AS read,
       to_char(r.published_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS published_at,
       EXISTS (SELECT FROM safecopy.receipt later WHERE later.target = r.target AND later.id > r.id
               AND later.write_mode = 'replace') AS replaced,
       EXISTS (SELECT FROM safecopy.receipt later WHERE later.target = r.target AND later.id > r.id
               AND (later.target_state ->> 'empty')::bool AND (later.target_state ->> 'oid')::oid = %(oid)s::oid) AS emptied,
       COALESCE((known.state ->> 'oid')::oid <> %(oid)s::oid, false) AS another,
       EXISTS (SELECT FROM safecopy.receipt later WHERE later.target = r.target AND later.id > r.id
               AND later.deleted > 0 AND later.proof ->> 'missing' = 'delete') AS thinned,
       EXISTS (SELECT FROM safecopy.receipt later WHERE later.target = ANY (%(kin)s::text[]) AND later.id > r.id
               AND (later.write_mode = 'replace' OR later.deleted > 0)) AS overwritten,
       files.kept, files.gone, files.unreadable, files.schemas, files.names
FROM safecopy.receipt r
CROSS JOIN LATERAL (SELECT CASE WHEN (r.target_state ->> 'ledger')::oid = r.tableoid THEN r.target_state END AS state) AS known
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE now.file::text = f.file) AS kept,
           count(*) FILTER (WHERE now.oid IS NULL) AS gone,
           count(*) FILTER (WHERE now.file::text <> f.file AND NOT now.may_read) AS unreadable,
           COALESCE(array_agg(now.schema) FILTER (WHERE now.file::text <> f.file AND now.may_read), '{}') AS schemas,
           COALESCE(array_agg(now.name) FILTER (WHERE now.file::text <> f.file AND now.may_read), '{}') AS names
    FROM jsonb_each_text(known.state -> 'files') AS f(oid, file)
    LEFT JOIN (
        SELECT c.oid, pg_relation_filenode(c.oid) AS file, n.nspname::text AS schema, c.relname::text AS name,
               has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT') AS may_read
        FROM (SELECT relid::oid AS oid FROM pg_partition_tree(%(oid)s::oid) UNION SELECT %(oid)s::oid) AS t
        JOIN pg_class c USING (oid) JOIN pg_namespace n ON n.oid = c.relnamespace
    ) AS now ON now.oid = f.oid::oid
) AS files
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
