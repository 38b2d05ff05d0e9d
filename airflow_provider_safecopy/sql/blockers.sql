-- Who is in the way of a publish, asked from another session while it waits.

-- name: own_names
SET search_path = pg_catalog

-- name: waits
-- Whether the session waits for a lock at all: cheap, while `in_the_way` makes the lock manager stop for a moment.
SELECT COALESCE(bool_or(wait_event_type = 'Lock'), false) AS waits FROM pg_stat_get_activity(%(waiting)s)

-- name: in_the_way
-- Who blocks the session. `holds`: has the lock, and has not only come first to the queue for it. `endable`: so, on the
-- table of the publish or what hangs on it, and it belongs to a client. What this role may not see is NULL. A worker of
-- the server, such as autovacuum, has no application name, and appears with its backend type.
WITH wanted AS (
    SELECT * FROM pg_locks WHERE pid = %(waiting)s AND NOT granted
), tree AS (
    SELECT relid::oid AS oid FROM pg_partition_tree(%(target)s) UNION SELECT %(target)s::oid
), concerned AS (
    SELECT oid FROM tree
    UNION SELECT f.conrelid FROM pg_constraint f JOIN tree ON f.confrelid = tree.oid WHERE f.contype = 'f'
    UNION SELECT f.confrelid FROM pg_constraint f JOIN tree ON f.conrelid = tree.oid WHERE f.contype = 'f'
    UNION SELECT c.oid FROM pg_class c JOIN wanted w ON w.relation = c.oid WHERE c.relkind IN ('v', 'm', 'S', 'i', 'I')
)
SELECT b.pid, COALESCE(a.usename, x.owner)::text AS role,
       COALESCE(NULLIF(a.application_name, ''), NULLIF(a.backend_type, 'client backend')) AS application_name, x.gid AS prepared, a.state,
       COALESCE(held.mode, own.mode) AS mode, n.nspname::text AS schema, c.relname::text AS name,
       held.mode IS NOT NULL AS holds,
       to_char(COALESCE(a.xact_start, x.prepared) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS transaction_start,
       EXTRACT(epoch FROM clock_timestamp() - COALESCE(a.xact_start, x.prepared))::float8 AS transaction_seconds,
       to_char(a.query_start AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS query_start,
       held.mode IS NOT NULL AND b.pid <> 0 AND COALESCE(a.backend_type, 'client backend') = 'client backend'
       AND a.application_name IS DISTINCT FROM %(application)s::text
       AND b.pid NOT IN (SELECT pid FROM pg_stat_replication)
       AND NOT EXISTS (SELECT FROM pg_stat_subscription u WHERE u.pid = b.pid)
       AND CASE w.locktype WHEN 'relation' THEN w.relation IN (SELECT oid FROM concerned)
                           WHEN 'transactionid' THEN own.mode IS NOT NULL ELSE false END AS endable
FROM wanted w
CROSS JOIN LATERAL (SELECT DISTINCT unnest(pg_blocking_pids(%(waiting)s)) AS pid) AS b
LEFT JOIN LATERAL (
    SELECT h.mode, h.virtualtransaction FROM pg_locks h
    WHERE h.granted AND COALESCE(h.pid, 0) = b.pid
      AND ROW(h.locktype, h.database, h.relation, h.page, h.tuple, h.virtualxid, h.transactionid, h.classid, h.objid, h.objsubid)
          IS NOT DISTINCT FROM
          ROW(w.locktype, w.database, w.relation, w.page, w.tuple, w.virtualxid, w.transactionid, w.classid, w.objid, w.objsubid)
      AND h.mode = ANY (CASE w.mode
          WHEN 'AccessShareLock' THEN '{AccessExclusiveLock}'
          WHEN 'RowShareLock' THEN '{ExclusiveLock,AccessExclusiveLock}'
          WHEN 'RowExclusiveLock' THEN '{ShareLock,ShareRowExclusiveLock,ExclusiveLock,AccessExclusiveLock}'
          WHEN 'ShareUpdateExclusiveLock' THEN '{ShareUpdateExclusiveLock,ShareLock,ShareRowExclusiveLock,ExclusiveLock,AccessExclusiveLock}'
          WHEN 'ShareLock' THEN '{RowExclusiveLock,ShareUpdateExclusiveLock,ShareRowExclusiveLock,ExclusiveLock,AccessExclusiveLock}'
          WHEN 'ShareRowExclusiveLock' THEN '{RowExclusiveLock,ShareUpdateExclusiveLock,ShareLock,ShareRowExclusiveLock,ExclusiveLock,AccessExclusiveLock}'
          WHEN 'ExclusiveLock' THEN '{RowShareLock,RowExclusiveLock,ShareUpdateExclusiveLock,ShareLock,ShareRowExclusiveLock,ExclusiveLock,AccessExclusiveLock}'
          ELSE '{AccessShareLock,RowShareLock,RowExclusiveLock,ShareUpdateExclusiveLock,ShareLock,ShareRowExclusiveLock,ExclusiveLock,AccessExclusiveLock}'
          END::text[])
    ORDER BY h.mode LIMIT 1
) AS held ON true
-- A session that holds a row holds a lock on its table, too.
LEFT JOIN LATERAL (
    SELECT h.mode, h.relation FROM pg_locks h JOIN tree ON tree.oid = h.relation
    WHERE h.granted AND COALESCE(h.pid, 0) = b.pid AND h.locktype = 'relation' AND h.mode <> 'AccessShareLock'
      AND h.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    ORDER BY h.mode LIMIT 1
) AS own ON w.locktype = 'transactionid'
LEFT JOIN pg_stat_activity a ON a.pid = b.pid
LEFT JOIN pg_locks t ON b.pid = 0 AND t.pid IS NULL AND t.locktype = 'transactionid' AND t.virtualtransaction = held.virtualtransaction
LEFT JOIN pg_prepared_xacts x ON x.transaction = t.transactionid
LEFT JOIN pg_class c ON c.oid = COALESCE(w.relation, own.relation)
LEFT JOIN pg_namespace n ON n.oid = c.relnamespace
ORDER BY b.pid

-- name: end
-- Only what blocks the session at this very moment, in the transaction it was seen in.
SELECT pg_terminate_backend(a.pid) AS ended FROM pg_stat_activity a
WHERE a.pid = %(pid)s AND a.pid = ANY (pg_blocking_pids(%(waiting)s))
  AND to_char(a.xact_start AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') IS NOT DISTINCT FROM %(transaction_start)s::text

-- name: holders
-- Who holds a lock on the table or a partition of it that a publish may have had to wait for: asked afterwards, where
-- no session could look while it waited.
SELECT h.pid, a.usename::text AS role,
       COALESCE(NULLIF(a.application_name, ''), NULLIF(a.backend_type, 'client backend')) AS application_name, NULL::text AS prepared, a.state, h.mode,
       n.nspname::text AS schema, c.relname::text AS name, true AS holds,
       to_char(a.xact_start AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS transaction_start,
       EXTRACT(epoch FROM clock_timestamp() - a.xact_start)::float8 AS transaction_seconds,
       to_char(a.query_start AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS query_start, false AS endable
FROM pg_locks h JOIN pg_stat_activity a USING (pid)
JOIN pg_class c ON c.oid = h.relation JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE h.relation IN (SELECT relid FROM pg_partition_tree(%(target)s) UNION ALL SELECT %(target)s::oid)
  AND h.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND h.granted AND h.pid <> pg_backend_pid() AND (%(exclusive)s OR h.mode <> 'AccessShareLock')
ORDER BY h.pid

-- name: holders_by_name
-- Who holds a lock, except for reading, on a table of the schema safecopy.
SELECT h.pid, a.usename::text AS role,
       COALESCE(NULLIF(a.application_name, ''), NULLIF(a.backend_type, 'client backend')) AS application_name, NULL::text AS prepared, a.state, h.mode,
       n.nspname::text AS schema, c.relname::text AS name, true AS holds,
       to_char(a.xact_start AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS transaction_start,
       EXTRACT(epoch FROM clock_timestamp() - a.xact_start)::float8 AS transaction_seconds,
       to_char(a.query_start AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS query_start, false AS endable
FROM pg_locks h JOIN pg_stat_activity a USING (pid)
JOIN pg_class c ON c.oid = h.relation JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE h.relation = to_regclass(%(table)s) AND h.mode <> 'AccessShareLock'
  AND h.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND h.granted AND h.pid <> pg_backend_pid() AND a.application_name NOT LIKE 'safecopy:%%'
ORDER BY h.pid

-- name: rows_may_change
-- Whether a foreign key of the staging table has an action: when others change the referenced table, it changes proven
-- rows.
SELECT EXISTS (SELECT FROM pg_constraint f
               JOIN pg_class c ON c.oid = f.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
               WHERE f.contype = 'f' AND n.nspname::text = %(schema)s::text AND c.relname::text = %(name)s::text
                 AND (f.confupdtype NOT IN ('a', 'r') OR f.confdeltype NOT IN ('a', 'r')))

-- name: waiters
-- Sessions of one run that wait for a lock right now, and the lock; or for the synchronous standbys, and their setting.
SELECT a.pid, w.mode, w.locktype, n.nspname::text AS schema, c.relname::text AS name,
       CASE a.wait_event WHEN 'SyncRep' THEN current_setting('synchronous_standby_names') END AS standbys
FROM pg_stat_activity a
LEFT JOIN LATERAL (SELECT * FROM pg_locks l WHERE l.pid = a.pid AND NOT l.granted LIMIT 1) AS w ON true
LEFT JOIN pg_class c ON c.oid = w.relation AND w.database = (SELECT oid FROM pg_database WHERE datname = current_database())
LEFT JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE a.application_name = %(application)s::text AND a.pid <> pg_backend_pid()
  AND (a.wait_event_type = 'Lock' AND w.pid IS NOT NULL OR a.wait_event = 'SyncRep')
ORDER BY a.pid
