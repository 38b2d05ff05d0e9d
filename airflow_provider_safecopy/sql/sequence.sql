-- Sequences that the columns of a table draw from.

-- name: drawn
-- Those owned by a column, as serial and identity columns do, and those that a column's default draws from, by their oid
-- or by a text. The columns are the table's, or those of what it inherits from, since a partition draws from its parent's.
-- `expression`: the default, where a column's values are not what was drawn, but made of it; NULL where they are.
WITH RECURSIVE line(oid) AS (
    SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname::text = %(schema)s::text AND c.relname::text = %(name)s::text
      -- The same, cut where it is too long, for the index's sake.
      AND n.nspname = %(schema)s::text::name AND c.relname = %(name)s::text::name
    UNION
    SELECT i.inhparent FROM line JOIN pg_inherits i ON i.inhrelid = line.oid
), copied AS (
    SELECT a.attrelid, a.attnum, a.attname::text AS name, f.oid AS default_oid,
           COALESCE(NULLIF(t.typbasetype, 0), t.oid) IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'numeric'::regtype) AS whole,
           pg_get_expr(f.adbin, f.adrelid) AS expression
    FROM line
    JOIN pg_attribute a ON a.attrelid = line.oid AND a.attname::text = ANY (%(columns)s::text[])
    JOIN pg_type t ON t.oid = a.atttypid
    LEFT JOIN pg_attrdef f ON f.adrelid = a.attrelid AND f.adnum = a.attnum AND a.attgenerated = ''
), said AS (
    -- A name that is a text is looked up when a value is drawn: along the search_path, if it has no schema.
    SELECT c.attrelid, c.attnum, replace(found.match[1], '''''', '''') AS name
    FROM copied c
    CROSS JOIN LATERAL regexp_matches(c.expression, 'nextval\(\(\x27((?:[^\x27]|\x27\x27)+)\x27::text\)::regclass\)', 'g') AS found(match)
), spoken AS (
    SELECT said.attrelid, said.attnum, s.oid
    FROM said
    CROSS JOIN LATERAL (
        SELECT CASE WHEN said.name ~ '^("([^"]|"")+"|[^".[:space:]]+)(\.("([^"]|"")+"|[^".[:space:]]+))?$'
                    THEN parse_ident(said.name, false) END AS parts
    ) AS read
    JOIN pg_class s ON s.relkind = 'S' AND s.relname = read.parts[cardinality(read.parts)]::name
    JOIN pg_namespace n ON n.oid = s.relnamespace
    WHERE n.nspname::text = CASE WHEN cardinality(read.parts) > 1 THEN read.parts[1] ELSE (
        SELECT p.name FROM unnest(%(path)s::text[]) WITH ORDINALITY AS p(name, position)
        JOIN pg_namespace pn ON pn.nspname::text = p.name
        JOIN pg_class pc ON pc.relnamespace = pn.oid AND pc.relname = s.relname
        ORDER BY p.position LIMIT 1) END
), drawn AS (
    SELECT c.attnum, c.name AS column_name, d.objid AS sequence, NULL AS expression
    FROM copied c
    JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = c.attrelid AND d.refobjsubid = c.attnum
                    AND d.classid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
    WHERE c.whole
    UNION
    SELECT c.attnum, c.name, found.oid,
           CASE WHEN NOT (c.whole AND c.expression ~ $plain$^\(*nextval\((\('([^']|'')+'::text\)|'([^']|'')+')::regclass\)(\)?::[a-z0-9]+)*$$plain$)
                THEN c.expression END
    FROM copied c
    CROSS JOIN LATERAL (
        SELECT d.refobjid AS oid FROM pg_depend d
        WHERE d.classid = 'pg_attrdef'::regclass AND d.objid = c.default_oid AND d.refclassid = 'pg_class'::regclass
        UNION
        SELECT s.oid FROM spoken s WHERE s.attrelid = c.attrelid AND s.attnum = c.attnum
    ) AS found
    WHERE NOT (c.whole AND EXISTS (SELECT FROM pg_depend d
                                   WHERE d.classid = 'pg_class'::regclass AND d.objid = found.oid AND d.deptype IN ('a', 'i')
                                     AND d.refclassid = 'pg_class'::regclass AND d.refobjid = c.attrelid AND d.refobjsubid = c.attnum))
)
SELECT drawn.column_name, n.nspname::text AS schema, s.relname::text AS name, drawn.expression,
       q.seqincrement AS increment, q.seqmin AS lowest, q.seqmax AS highest, q.seqcycle AS cycles,
       has_schema_privilege(n.oid, 'USAGE') AND pg_has_role(s.relowner, 'USAGE') AS may_alter,
       has_schema_privilege(n.oid, 'USAGE') AND has_sequence_privilege(s.oid, 'SELECT') AS may_read,
       has_sequence_privilege(s.oid, 'UPDATE') AS may_set
FROM drawn
JOIN pg_class s ON s.oid = drawn.sequence AND s.relkind = 'S'
JOIN pg_sequence q ON q.seqrelid = s.oid
JOIN pg_namespace n ON n.oid = s.relnamespace
ORDER BY drawn.attnum, s.oid

-- name: own_names
SET LOCAL search_path = pg_catalog
