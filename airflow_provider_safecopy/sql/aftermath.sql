-- What is asked once a publish is committed.

-- name: views
-- Materialized views that hold rows of the table, of its partitions, or of what it is a partition of, directly or
-- through views; each after those it is made of. Views may be made of each other in a circle, which cannot be read.
WITH RECURSIVE upward(oid) AS (
    SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname::text = %(schema)s::text AND c.relname::text = %(name)s::text
    UNION
    SELECT i.inhparent FROM upward JOIN pg_inherits i ON i.inhrelid = upward.oid
), downward(oid) AS (
    SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname::text = %(schema)s::text AND c.relname::text = %(name)s::text
    UNION
    SELECT i.inhrelid FROM downward JOIN pg_inherits i ON i.inhparent = downward.oid
), dependent(oid, depth) AS (
    SELECT family.oid, 0 FROM (SELECT oid FROM upward UNION SELECT oid FROM downward) AS family
    UNION
    SELECT r.ev_class, d.depth + 1
    FROM dependent d
    JOIN pg_depend p ON p.refclassid = 'pg_class'::regclass AND p.refobjid = d.oid AND p.classid = 'pg_rewrite'::regclass
    JOIN pg_rewrite r ON r.oid = p.objid AND r.ev_class <> d.oid
    JOIN pg_class v ON v.oid = r.ev_class AND v.relkind IN ('v', 'm')
    WHERE d.depth < 64
)
SELECT n.nspname::text AS schema, c.relname::text AS name, pg_get_userbyid(c.relowner)::text AS owner,
       c.relispopulated AND EXISTS (
           SELECT FROM pg_index i
           WHERE i.indrelid = c.oid AND i.indisunique AND i.indimmediate AND i.indisvalid AND i.indpred IS NULL
             AND i.indexprs IS NULL) AS beside_readers,
       c.relispopulated AS populated,
       has_schema_privilege(n.oid, 'USAGE')
       AND CASE WHEN current_setting('server_version_num')::int >= 170000 THEN has_table_privilege(c.oid, 'MAINTAIN')
                ELSE pg_has_role(c.relowner, 'USAGE') END AS may_refresh
FROM (SELECT oid, max(depth) AS depth FROM dependent GROUP BY oid) AS found
JOIN pg_class c USING (oid) JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'm'
ORDER BY found.depth, c.oid

-- name: rows_as_usual
-- A person who refreshes a view by hand has row security as it is.
SET LOCAL row_security TO DEFAULT
