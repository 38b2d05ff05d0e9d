-- Sequences that the columns of a table draw from.

-- name: owned
-- Those owned by a column, as serial and identity columns do: the table's, or those of what it inherits from, since a
-- partition draws from its parent's. Only where a column's values are whole numbers, or may be.
WITH RECURSIVE line(oid) AS (
    SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname::text = %(schema)s::text AND c.relname::text = %(name)s::text
      -- The same, cut where it is too long, for the index's sake.
      AND n.nspname = %(schema)s::text::name AND c.relname = %(name)s::text::name
    UNION
    SELECT i.inhparent FROM line JOIN pg_inherits i ON i.inhrelid = line.oid
)
SELECT a.attname::text AS column_name, n.nspname::text AS schema, s.relname::text AS name,
       q.seqincrement AS increment, q.seqmin AS lowest, q.seqmax AS highest, q.seqcycle AS cycles,
       has_schema_privilege(n.oid, 'USAGE') AND pg_has_role(s.relowner, 'USAGE') AS may_alter,
       has_schema_privilege(n.oid, 'USAGE') AND has_sequence_privilege(s.oid, 'SELECT') AS may_read,
       has_sequence_privilege(s.oid, 'UPDATE') AS may_set
FROM line
JOIN pg_attribute a ON a.attrelid = line.oid AND a.attname::text = ANY (%(columns)s::text[])
JOIN pg_type t ON t.oid = a.atttypid
JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = line.oid AND d.refobjsubid = a.attnum
                AND d.classid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
JOIN pg_sequence q ON q.seqrelid = s.oid
JOIN pg_namespace n ON n.oid = s.relnamespace
WHERE COALESCE(NULLIF(t.typbasetype, 0), t.oid) IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'numeric'::regtype)
ORDER BY a.attnum, s.oid

-- name: own_names
SET LOCAL search_path = pg_catalog
