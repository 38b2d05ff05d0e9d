-- The source proof: whether this session reads what its snapshot saw. MVCC does not cover TRUNCATE, rewrites of a table, and
-- its replacement by another table or partition: an older snapshot sees no rows in the new file.
-- A query sees the catalog as the snapshot does; a function like pg_relation_filenode sees it as it is now.

-- name: replaced
-- The names, in one text, of relations that this session has locked and that are not what the snapshot saw under their
-- names; empty if there are none. Their locks prevent changes, so what is true now was true of all rows read. New indexes do
-- not matter, and the catalog's own tables (below 16384) are always there.
-- All names carry their schema, because the query may have run a function that changed search_path.
SELECT COALESCE(left(string_agg(locked.name, ', ' ORDER BY locked.name), 1000), '') AS safecopy_replaced
FROM (
    SELECT l.relation AS oid, c.oid AS seen, c.relkind, c.relfilenode, l.relation::pg_catalog.regclass::pg_catalog.text AS now,
           pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname) AS name
    FROM (SELECT DISTINCT k.relation FROM pg_catalog.pg_locks k
          WHERE k.pid = pg_catalog.pg_backend_pid() AND k.locktype = 'relation' AND k.granted AND k.relation >= 16384
            AND k.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())) AS l
    LEFT JOIN pg_catalog.pg_class c ON c.oid = l.relation LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
) AS found
CROSS JOIN LATERAL (SELECT COALESCE(found.name, found.now) AS name) AS locked
WHERE CASE WHEN found.seen IS NULL THEN pg_catalog.pg_get_indexdef(found.oid) IS NULL
           WHEN found.relkind NOT IN ('r', 'm', 'p', 'v', 'f') THEN false
           WHEN found.now <> found.name THEN true
           WHEN found.relkind IN ('r', 'm') THEN NULLIF(found.relfilenode, 0) IS DISTINCT FROM pg_catalog.pg_relation_filenode(found.oid)
           WHEN found.relkind = 'p' THEN
               ARRAY(SELECT t.relid::pg_catalog.oid FROM pg_catalog.pg_partition_tree(found.oid) t ORDER BY 1)
               <> ARRAY(WITH RECURSIVE tree AS (
                            SELECT found.oid UNION SELECT i.inhrelid FROM tree b JOIN pg_catalog.pg_inherits i ON i.inhparent = b.oid
                            -- Not one that is being detached: a column since version 14.
                            WHERE NOT COALESCE((pg_catalog.to_jsonb(i) ->> 'inhdetachpending')::boolean, false)
                        ) SELECT b.oid FROM tree b ORDER BY 1)
           ELSE false END
   -- A definition that the snapshot sees, and that a transaction after it has replaced or removed: of a column, a view, a
   -- partition or child. That transaction is the row's xmax: 32 bits of 64, counted from the snapshot's own xmin. What lies
   -- before that was rolled back, or only locked the row. INHERIT and ATTACH count up in the child's columns.
   OR found.relkind IN ('r', 'm', 'p', 'v', 'f') AND EXISTS (
       SELECT FROM (SELECT a.xmax FROM pg_catalog.pg_attribute a WHERE a.attrelid = found.oid AND a.attnum > 0
                    UNION ALL SELECT w.xmax FROM pg_catalog.pg_rewrite w WHERE w.ev_class = found.oid
                    UNION ALL SELECT i.xmax FROM pg_catalog.pg_inherits i WHERE found.oid IN (i.inhparent, i.inhrelid)) AS changed(by)
       CROSS JOIN LATERAL (SELECT pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())::text::bigint AS xmin) AS mine
       CROSS JOIN LATERAL (SELECT mod(changed.by::text::bigint - mod(mine.xmin, 4294967296) + 4294967296, 4294967296) AS later) AS gap
       WHERE changed.by <> '0'
         AND CASE WHEN gap.later < 2147483648 THEN pg_catalog.pg_xact_status((mine.xmin + gap.later)::text::xid8) = 'committed' END)

-- name: read_alone
-- Parallel workers release their locks when they end, so `replaced` cannot see what only they have read. The leader locks
-- each table of its query. So only functions hide tables, and where there is one that workers may run, there are no workers.
-- Functions of extensions count if they are not written in C, and not immutable.
SELECT set_config('max_parallel_workers_per_gather', '0', true)
WHERE EXISTS (SELECT FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
              WHERE p.oid >= 16384 AND p.proparallel = 's' AND l.lanname <> 'internal'
                AND ((l.lanname <> 'c' AND p.provolatile <> 'i')
                     OR NOT EXISTS (SELECT FROM pg_depend d
                                    WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')))

-- name: planned
-- The name of the table %(table)s, where it is not what the snapshot saw any more: dropped, renamed, or stored anew.
SELECT seen.name FROM (SELECT c.oid, c.relkind, c.relfilenode, quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS name
                       FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = %(table)s) AS seen
WHERE seen.oid::regclass::text <> seen.name
   OR seen.relkind IN ('r', 'm') AND NULLIF(seen.relfilenode, 0) IS DISTINCT FROM pg_relation_filenode(seen.oid)

-- name: waits_for_us
-- The session that one of `readers` waits for, and that waits for a session of the same copy, directly or through other
-- sessions. The server detects no such deadlock, because that session waits for no lock: it holds the snapshot, or is
-- another lane, which may read for hours.
WITH RECURSIVE ours AS (
    SELECT a.pid FROM pg_stat_activity a
    WHERE a.pid = pg_backend_pid() OR a.application_name = current_setting('application_name') AND a.usename = session_user
), waiting AS (
    SELECT r.pid AS reader, b.pid, ARRAY[r.pid] AS behind
    FROM unnest(%(readers)s::int[]) AS r(pid) CROSS JOIN LATERAL unnest(pg_blocking_pids(r.pid)) AS b(pid)
    UNION ALL
    SELECT w.reader, b.pid, w.behind || w.pid
    FROM waiting w CROSS JOIN LATERAL unnest(pg_blocking_pids(w.pid)) AS b(pid)
    WHERE w.pid <> ALL (w.behind) AND w.pid NOT IN (SELECT pid FROM ours)
)
SELECT a.pid, a.usename::text AS role, a.application_name AS application, w.pid = pg_backend_pid() AS for_snapshot,
       (SELECT l.relation::regclass::text FROM pg_locks l
        WHERE l.pid = w.reader AND NOT l.granted AND l.locktype = 'relation' LIMIT 1) AS relation
FROM waiting w JOIN pg_stat_activity a ON a.pid = w.behind[cardinality(w.behind)]
WHERE w.pid IN (SELECT pid FROM ours) AND cardinality(w.behind) > 1
ORDER BY for_snapshot DESC LIMIT 1
