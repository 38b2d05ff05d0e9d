-- What is asked of many tables at once, and of none alone.

-- name: extent
-- How large a table is, as far as the catalog knows: asking the files would wait for the session that has it locked. One that was
-- never analyzed has no pages there, but its rows have been counted as they came. `unnoticed`: nothing listens to changes
-- of its rows, neither triggers (foreign keys have some) nor, as far as can be said without asking long, subscribers.
-- pg_partition_tree would lock partitions before their parent, which all others lock first.
WITH RECURSIVE part AS (
    SELECT %(oid)s::oid AS oid
    UNION SELECT i.inhrelid FROM part p JOIN pg_class a ON a.oid = p.oid AND a.relkind = 'p' JOIN pg_inherits i ON i.inhparent = p.oid
)
SELECT GREATEST(sum(c.reltuples), sum(pg_stat_get_live_tuples(c.oid)), 0)::bigint AS rows,
       (sum(c.relpages + COALESCE(t.relpages, 0)) * current_setting('block_size')::bigint)::bigint AS bytes,
       NOT EXISTS (SELECT FROM pg_publication) AND NOT bool_or(c.relhastriggers) AS unnoticed
FROM pg_class c LEFT JOIN pg_class t ON t.oid = c.reltoastrelid
WHERE c.oid IN (SELECT oid FROM part)
