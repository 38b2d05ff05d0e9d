-- name: stored
-- The pages of a relation and of all that is read with it (partitions, children), the most that one of them has;
-- and whether all of them store their rows by place: only then does a range of places name each row once.
WITH RECURSIVE tree AS (
    SELECT %(oid)s::oid AS oid
    UNION
    SELECT i.inhrelid FROM pg_inherits i JOIN tree t ON t.oid = i.inhparent
)
SELECT COALESCE(max(pg_relation_size(c.oid) / current_setting('block_size')::int), 0)::bigint AS pages,
       bool_and(c.relkind = 'p' OR c.relkind IN ('r', 'm') AND a.amname = 'heap') AS by_place
FROM tree
JOIN pg_class c USING (oid)
LEFT JOIN pg_am a ON a.oid = c.relam

-- name: open_transactions
-- Whoever has a transaction open in this database: each may hold a snapshot that is older than rows just loaded.
-- Our own sessions do not count: none of them reads the table by an old snapshot.
-- `idle` is one that surely holds none now; of others' sessions nobody may know.
SELECT l.virtualtransaction AS transaction, l.pid,
       COALESCE(a.backend_xmin IS NULL AND a.backend_xid IS NULL AND a.state LIKE 'idle%%', false) AS idle,
       a.usename::text AS role, a.application_name AS application
FROM pg_locks l
JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'virtualxid' AND l.mode = 'ExclusiveLock' AND l.granted
  AND a.datid = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND a.backend_type NOT LIKE 'autovacuum%%' AND a.application_name <> %(ours)s
