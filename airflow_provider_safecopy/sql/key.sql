-- What names a row of a table, and what else must be unique in it. Run under search_path = pg_catalog.

-- name: unique_indexes
-- A row for each column of each index that could serve as a key: of B-tree, valid, whole, and of plain columns. The
-- equality is the index's own: under another operator, or another collation, two keys could be one and the same row.
-- `exact`: what is equal is also the same byte for byte. That of char(n) disregards blanks at the end, whatever the
-- operator class says.
SELECT i.indexrelid AS index_oid, x.relname::text AS index,
       a.attname::text AS name, a.attnotnull AS not_null, e.oprcanhash OR e.oprcanmerge AS joinable,
       en.nspname::text AS operator_schema, e.oprname::text AS operator,
       cn.nspname::text AS class_schema, c.opcname::text AS class,
       ln.nspname::text AS collation_schema, l.collname::text AS collation,
       EXISTS (SELECT FROM pg_amproc p
               WHERE p.amprocfamily = c.opcfamily AND p.amproclefttype = c.opcintype AND p.amprocrighttype = c.opcintype
                 AND p.amprocnum = 4 AND c.opcintype <> 'bpchar'::regtype
                 AND (p.amproc = 'btequalimage'::regproc
                      OR p.amproc = 'btvarstrequalimage'::regproc AND l.collisdeterministic)) AS exact
FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_am m ON m.oid = x.relam AND m.amname = 'btree'
CROSS JOIN LATERAL generate_series(0, i.indnkeyatts - 1) AS position
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[position]
JOIN pg_opclass c ON c.oid = i.indclass[position] JOIN pg_namespace cn ON cn.oid = c.opcnamespace
JOIN pg_amop o ON o.amopfamily = c.opcfamily AND o.amoplefttype = c.opcintype AND o.amoprighttype = c.opcintype
              AND o.amopstrategy = 3 AND o.amoppurpose = 's'
JOIN pg_operator e ON e.oid = o.amopopr JOIN pg_namespace en ON en.oid = e.oprnamespace
LEFT JOIN pg_collation l ON l.oid = i.indcollation[position] LEFT JOIN pg_namespace ln ON ln.oid = l.collnamespace
WHERE i.indrelid = %(oid)s AND i.indisunique AND i.indisvalid AND i.indisready AND i.indpred IS NULL AND i.indexprs IS NULL
ORDER BY i.indisprimary DESC, i.indisreplident DESC, i.indnkeyatts, x.relname, position

-- name: clashes
-- Unique and exclusion indexes besides the key's that are checked row by row, and the columns each depends on, through
-- expressions, predicates and generated columns too.
WITH tree AS (
    SELECT relid::oid AS oid FROM pg_partition_tree(%(oid)s) UNION SELECT %(oid)s::oid
), candidate AS MATERIALIZED (
    SELECT EXISTS (SELECT FROM tree JOIN pg_index i ON i.indrelid = tree.oid AND (i.indisunique OR i.indisexclusion)
                   WHERE i.indexrelid <> %(key)s) AS there
), used AS (
    SELECT i.indexrelid, i.indrelid, a.attnum, a.attname::text AS name, a.attgenerated <> '' AS generated
    FROM tree JOIN pg_index i ON i.indrelid = tree.oid AND (i.indisunique OR i.indisexclusion) AND i.indimmediate AND i.indisready
    JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum > 0 AND NOT a.attisdropped
    -- First whether there is any at all: most tables have none, and what follows reads much of the catalog.
    WHERE (SELECT there FROM candidate) AND i.indexrelid <> %(key)s
      AND NOT EXISTS (SELECT FROM pg_inherits h JOIN pg_index above ON above.indexrelid = h.inhparent
                      WHERE h.inhrelid = i.indexrelid AND above.indrelid IN (SELECT oid FROM tree))
      AND (a.attnum = ANY (i.indkey)
           OR strpos(concat(i.indexprs::text, i.indpred::text), ':varattno 0 ') > 0
           OR EXISTS (SELECT FROM pg_depend d
                      WHERE d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid
                        AND d.refclassid = 'pg_class'::regclass AND d.refobjid = i.indrelid AND d.refobjsubid = a.attnum))
), computed AS (
    -- Majors differ in what depends on a generated column's sources: its expression, or the column itself.
    SELECT u.indexrelid, b.attname::text AS name
    FROM used u LEFT JOIN pg_attrdef f ON f.adrelid = u.indrelid AND f.adnum = u.attnum
    JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = u.indrelid AND d.refobjsubid NOT IN (0, u.attnum)
                    AND (d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid
                         OR d.classid = 'pg_class'::regclass AND d.objid = u.indrelid AND d.objsubid = u.attnum)
    JOIN pg_attribute b ON b.attrelid = u.indrelid AND b.attnum = d.refobjsubid
    WHERE u.generated AND (SELECT there FROM candidate)
)
SELECT x.relname::text AS index, array_agg(DISTINCT c.name ORDER BY c.name) AS columns
FROM (SELECT indexrelid, name FROM used WHERE NOT generated UNION SELECT indexrelid, name FROM computed) AS c
JOIN pg_class x ON x.oid = c.indexrelid
WHERE (SELECT there FROM candidate)
GROUP BY c.indexrelid, x.relname ORDER BY x.relname, c.indexrelid

-- name: references
-- Foreign keys that refer to the table or a partition of it, each with its own equality. `parts`: where what it refers
-- to may lie. `own`: it is the table's own.
-- Planning asks it, and hence it locks nothing: pg_partition_tree would lock partitions before their parent.
WITH RECURSIVE tree AS (
    SELECT %(oid)s::oid AS oid
    UNION SELECT i.inhrelid FROM tree t JOIN pg_class a ON a.oid = t.oid AND a.relkind = 'p' JOIN pg_inherits i ON i.inhparent = t.oid
)
SELECT f.conname::text AS name, n.nspname::text AS schema, c.relname::text AS table,
       f.conrelid IN (SELECT oid FROM tree) AS own, f.confdeltype::text AS on_delete, f.confupdtype::text AS on_update,
       ARRAY(WITH RECURSIVE part AS (
                 SELECT f.confrelid AS oid
                 UNION SELECT i.inhrelid FROM part p JOIN pg_class a ON a.oid = p.oid AND a.relkind = 'p'
                                         JOIN pg_inherits i ON i.inhparent = p.oid
             ) SELECT part.oid FROM part) AS parts,
       has_schema_privilege(n.oid, 'USAGE') AND bool_and(has_column_privilege(c.oid, ca.attnum, 'SELECT')) AS may_select,
       array_agg(pa.attname::text ORDER BY k.position) AS columns,
       array_agg(ca.attname::text ORDER BY k.position) AS referring,
       array_agg(en.nspname::text ORDER BY k.position) AS operator_schemas,
       array_agg(e.oprname::text ORDER BY k.position) AS operators,
       array_agg(ln.nspname::text ORDER BY k.position) AS collation_schemas,
       array_agg(l.collname::text ORDER BY k.position) AS collations
FROM pg_constraint f JOIN pg_class c ON c.oid = f.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
CROSS JOIN LATERAL unnest(f.confkey, f.conkey, f.conpfeqop) WITH ORDINALITY AS k(theirs, ours, operator, position)
JOIN pg_attribute pa ON pa.attrelid = f.confrelid AND pa.attnum = k.theirs
JOIN pg_attribute ca ON ca.attrelid = f.conrelid AND ca.attnum = k.ours
JOIN pg_operator e ON e.oid = k.operator JOIN pg_namespace en ON en.oid = e.oprnamespace
LEFT JOIN pg_collation l ON l.oid = pa.attcollation LEFT JOIN pg_namespace ln ON ln.oid = l.collnamespace
WHERE f.contype = 'f' AND f.confrelid IN (SELECT oid FROM tree)
  AND NOT EXISTS (SELECT FROM pg_constraint p WHERE p.oid = f.conparentid AND p.confrelid IN (SELECT oid FROM tree))
GROUP BY f.oid, f.conname, f.conrelid, f.confrelid, f.confdeltype, f.confupdtype, n.nspname, n.oid, c.relname, c.oid
ORDER BY f.conname, n.nspname, c.relname

-- name: pairing
-- What forbids to lock a table and to pair its rows by place. LOCK TABLE asks for one of these rights on the whole table;
-- rights on all of its columns are not enough.
WITH RECURSIVE tree AS (
    SELECT %(oid)s::oid AS oid
    UNION SELECT i.inhrelid FROM tree t JOIN pg_class a ON a.oid = t.oid AND a.relkind = 'p' JOIN pg_inherits i ON i.inhparent = t.oid
)
SELECT has_table_privilege(%(oid)s::oid, 'UPDATE, DELETE, TRUNCATE') AS may_lock,
       ARRAY(SELECT c.oid::regclass::text FROM tree JOIN pg_class c ON c.oid = tree.oid
             WHERE c.relkind = 'f' AND c.relispartition ORDER BY 1) AS foreign_partitions

-- name: has_triggers
-- Whether a user's triggers fire on what is written.
SELECT EXISTS (SELECT FROM pg_trigger t
               WHERE NOT t.tgisinternal AND t.tgenabled IN ('O', 'A')
                 AND t.tgrelid IN (SELECT relid FROM pg_partition_tree(%(oid)s) UNION ALL SELECT %(oid)s::oid))

-- name: all_deferred
-- What can wait for it is checked at COMMIT.
SET CONSTRAINTS ALL DEFERRED

-- name: room
-- Joins of whole tables take half the time where they need not go to disk; for this transaction alone.
SELECT set_config('work_mem', GREATEST(pg_size_bytes(current_setting('work_mem')) / 1024, 65536)::text, true)

-- name: bound
-- How long a statement may take, in milliseconds, outside of any transaction; 0 for as long as it takes.
SELECT set_config('statement_timeout', %(milliseconds)s::text, false)

-- name: order
-- The tables of the foreign key %(key)s of the table, or on it: what refers, and what it refers to. Partitions are named by
-- their parents.
SELECT child.root::regclass::text AS child, parent.root::regclass::text AS parent
FROM pg_constraint k
CROSS JOIN LATERAL (SELECT COALESCE(pg_partition_root(k.conrelid)::oid, k.conrelid) AS root) AS child
CROSS JOIN LATERAL (SELECT COALESCE(pg_partition_root(k.confrelid)::oid, k.confrelid) AS root) AS parent
WHERE k.contype = 'f' AND k.conname::text = %(key)s::text AND child.root <> parent.root
  AND COALESCE(pg_partition_root(%(oid)s)::oid, %(oid)s::oid) IN (child.root, parent.root)
ORDER BY k.conparentid, k.oid LIMIT 1
