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
