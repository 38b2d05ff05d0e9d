-- What a table is made of, asked of the source, and what there is for it in the target. Every statement runs under
-- search_path = pg_catalog, so that whatever is the user's is spelled with its schema. Columns of the catalog that not
-- every major has are taken out of to_jsonb().

-- name: last_shape
SELECT token, to_char(published_at, 'YYYY-MM-DD') AS day, proof -> 'shape' AS shape
FROM safecopy.receipt
WHERE target = %(target)s AND source = %(source)s AND proof ? 'shape'
ORDER BY id DESC LIMIT 1

-- name: table_comment
SELECT obj_description(%(oid)s, 'pg_class')

-- name: columns
-- `plain`: the default means the same in any database: it calls built-in functions only, which neither change anything
-- nor look at settings or names, and needs nothing but types. What is built in has an oid below 16384.
SELECT a.attname::text AS name,
       col_description(a.attrelid, a.attnum) AS comment,
       a.attnotnull AND NOT EXISTS (SELECT FROM pg_constraint k
                                    WHERE k.conrelid = a.attrelid AND k.contype = 'n' AND k.conkey = ARRAY[a.attnum]
                                      AND NOT k.convalidated) AS not_null,
       pg_get_expr(f.adbin, f.adrelid) AS expression,
       a.attgenerated <> '' AS generated,
       f.oid IS NULL OR (
           NOT EXISTS (SELECT FROM pg_depend d
                       WHERE d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid AND d.refclassid <> 'pg_type'::regclass
                         AND NOT (d.refclassid = 'pg_class'::regclass AND d.refobjid = a.attrelid))
           AND NOT EXISTS (SELECT FROM regexp_matches(f.adbin::text, ':(?:op)?funcid (\d+)', 'g') AS called(id)
                           JOIN pg_proc p ON p.oid = called.id[1]::oid
                           WHERE p.oid >= 16384 OR p.prorettype::regtype::text LIKE 'reg%%' OR p.proname = 'current_setting'
                              OR p.provolatile = 'v' AND p.proname NOT IN (
                                  'gen_random_uuid', 'uuidv4', 'uuidv7', 'random', 'clock_timestamp', 'timeofday'))
       ) AS plain,
       CASE a.attidentity WHEN 'a' THEN 'ALWAYS' WHEN 'd' THEN 'BY DEFAULT' END AS identity,
       s.seqstart, s.seqincrement, s.seqmin, s.seqmax, s.seqcache, s.seqcycle,
       CASE WHEN a.attcollation <> t.typcollation THEN co.collname::text END AS collation,
       a.attcollation < 10000 AS collation_built_in
FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_attrdef f ON f.adrelid = a.attrelid AND f.adnum = a.attnum
LEFT JOIN pg_collation co ON co.oid = a.attcollation
-- A partition draws from the sequence of its parent.
LEFT JOIN pg_attribute own ON a.attidentity <> '' AND own.attname = a.attname
                          AND own.attrelid = COALESCE(pg_partition_root(a.attrelid)::oid, a.attrelid)
LEFT JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = own.attrelid
                     AND d.refobjsubid = own.attnum AND d.classid = 'pg_class'::regclass AND d.deptype = 'i'
LEFT JOIN pg_sequence s ON s.seqrelid = d.objid
WHERE a.attrelid = %(oid)s AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum

-- name: keys
SELECT k.conname::text AS name, k.contype = 'p' AS is_primary, k.condeferrable AS deferrable, k.condeferred AS deferred,
       COALESCE((to_jsonb(k) ->> 'conperiod')::bool, false) AS temporal,
       COALESCE((to_jsonb(i) ->> 'indnullsnotdistinct')::bool, false) AS nulls_not_distinct,
       obj_description(k.oid, 'pg_constraint') AS comment,
       ARRAY(SELECT a.attname::text FROM unnest(i.indkey) WITH ORDINALITY AS key(number, position)
             JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = key.number
             WHERE key.position <= i.indnkeyatts ORDER BY key.position) AS columns,
       ARRAY(SELECT a.attname::text FROM unnest(i.indkey) WITH ORDINALITY AS key(number, position)
             JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = key.number
             WHERE key.position > i.indnkeyatts ORDER BY key.position) AS included
FROM pg_constraint k JOIN pg_index i ON i.indexrelid = k.conindid
WHERE k.conrelid = %(oid)s AND k.contype IN ('p', 'u')
ORDER BY k.contype, k.conname

-- name: type_there
-- `obeyed`: a domain with rules of its own, which rows that are there already would have to obey.
SELECT t.oid, t.typtype = 'p' AS pseudo,
       t.typtype = 'd' AND (t.typnotnull OR t.typdefault IS NOT NULL
                            OR EXISTS (SELECT FROM pg_constraint k WHERE k.contypid = t.oid)) AS obeyed
FROM pg_type t WHERE t.oid = to_regtype(%(type)s)

-- name: type_elsewhere
-- Types of a name in any schema; the same type may be in another schema than in the source.
SELECT quote_ident(n.nspname) || '.' || %(bare)s::text AS spelled, t.oid, t.typtype = 'p' AS pseudo,
       t.typtype = 'd' AND (t.typnotnull OR t.typdefault IS NOT NULL
                            OR EXISTS (SELECT FROM pg_constraint k WHERE k.contypid = t.oid)) AS obeyed
FROM pg_namespace n JOIN pg_type t ON t.oid = to_regtype(quote_ident(n.nspname) || '.' || %(bare)s::text)
WHERE n.nspname NOT LIKE 'pg\_%%' ORDER BY n.nspname

-- name: collation_there
SELECT EXISTS (SELECT FROM pg_collation
               WHERE collname::text = %(name)s AND collnamespace = 'pg_catalog'::regnamespace AND oid < 10000
                 AND collencoding IN (-1, (SELECT encoding FROM pg_database WHERE datname = current_database())))

-- name: extensible
-- Whether a column can be added to a table, by this role.
SELECT pg_has_role(c.relowner, 'USAGE') AS owned, c.relispartition OR c.reloftype <> 0 AS bound,
       EXISTS (SELECT FROM pg_publication_tables p JOIN pg_namespace n ON n.nspname = p.schemaname
               WHERE n.oid = c.relnamespace AND p.tablename = c.relname) AS published
FROM pg_class c WHERE c.oid = %(oid)s

-- name: schema_there
SELECT has_schema_privilege(n.oid, 'USAGE') AS may_enter,
       has_schema_privilege(n.oid, 'CREATE') AND n.nspname NOT LIKE 'pg\_%%' AS may_create,
       EXISTS (SELECT FROM pg_type t WHERE t.typnamespace = n.oid AND t.typname::text = %(name)s AND t.typcategory <> 'A') AS taken
FROM pg_namespace n WHERE n.nspname::text = %(schema)s

-- name: name_there
SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
               WHERE n.nspname::text = %(schema)s AND c.relname::text = %(name)s)
