-- Whether the schema `safecopy` may be used at all. The owner of a table may attach a trigger, a rule, a policy or an
-- expression to it, and each of them runs with the rights of the role that uses the table. So the schema is checked before
-- its tables are touched: these statements read only catalogs, and run nothing that they find.

-- name: pin
-- Names in the statements below are the server's own; a temporary table never comes first. Expressions are compared as the
-- server writes them, and with quote_all_identifiers it writes them otherwise.
SET LOCAL search_path = pg_catalog, pg_temp; SET LOCAL quote_all_identifiers = off

-- name: suspicions
-- One row for each reason not to use the schema; `kind` is owner, right, or trap, which stays active when the owner
-- changes.
-- An owner is trusted if it has the rights of the database's owner (a superuser has), or ours: such a role gains nothing.
-- It is not enough that we have the owner's rights: the owner's code would run with more rights than its own.
WITH us AS (
    SELECT d.datdba, r.oid AS role FROM pg_database d, pg_roles r
    WHERE d.datname = current_database() AND r.rolname = current_user
), owners AS (
    SELECT r.oid, r.rolname::text AS name, r.rolname = 'pg_database_owner' OR pg_has_role(r.oid, us.datdba, 'USAGE')
                                           OR pg_has_role(r.oid, us.role, 'USAGE') AS trusted
    FROM us, pg_roles r
    WHERE r.oid IN (SELECT n.nspowner FROM pg_namespace n WHERE n.nspname = 'safecopy'
                    UNION SELECT c.relowner FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                    WHERE n.nspname = 'safecopy'
                      AND c.relname IN ('lock', 'member', 'lock_event', 'receipt', 'watermark'))
), tables AS (
    SELECT c.oid, c.relname::text AS name, c.relkind, c.relpersistence, c.relowner, c.relacl,
           c.relrowsecurity OR c.relforcerowsecurity AS filtered
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = 'safecopy' AND c.relname IN ('lock', 'member', 'lock_event', 'receipt', 'watermark')
), defaults(expression) AS (
    VALUES ('0'), ('''{}''::jsonb'), ('''-infinity''::timestamp with time zone'), ('''replace''::text'),
           ('clock_timestamp()')
)
SELECT 'owner' AS kind, 'the schema belongs to ' || o.name AS what
FROM pg_namespace n JOIN owners o ON o.oid = n.nspowner AND NOT o.trusted WHERE n.nspname = 'safecopy'
UNION ALL
SELECT 'owner', t.name || ' belongs to ' || o.name FROM tables t JOIN owners o ON o.oid = t.relowner AND NOT o.trusted
UNION ALL
SELECT 'trap', name || ' is no ordinary table' FROM tables WHERE relkind <> 'r' OR relpersistence <> 'p'
UNION ALL
SELECT 'trap', name || ' has row security' FROM tables WHERE filtered
UNION ALL
SELECT 'trap', t.name || ' inherits, or is inherited' FROM tables t
WHERE EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = t.oid) OR EXISTS (SELECT FROM pg_inherits i WHERE i.inhparent = t.oid)
UNION ALL
SELECT 'trap', t.name || ' has the trigger ' || g.tgname FROM tables t JOIN pg_trigger g ON g.tgrelid = t.oid
UNION ALL
SELECT 'trap', t.name || ' has the rule ' || r.rulename FROM tables t JOIN pg_rewrite r ON r.ev_class = t.oid
WHERE t.relkind = 'r'
UNION ALL
SELECT 'trap', t.name || ' has the policy ' || p.polname FROM tables t JOIN pg_policy p ON p.polrelid = t.oid
UNION ALL
SELECT 'trap', t.name || ' has the constraint ' || k.conname FROM tables t JOIN pg_constraint k ON k.conrelid = t.oid
WHERE k.contype NOT IN ('p', 'u', 'n')
UNION ALL
SELECT 'trap', t.name || ' has the statistics ' || s.stxname FROM tables t JOIN pg_statistic_ext s ON s.stxrelid = t.oid
WHERE s.stxexprs IS NOT NULL
UNION ALL
-- A role with TRIGGER on a table may make a trigger at any later time.
SELECT 'right', t.name || ' lets ' || COALESCE(r.rolname::text, 'every role') || ' make triggers'
FROM tables t CROSS JOIN LATERAL aclexplode(t.relacl) a LEFT JOIN pg_roles r ON r.oid = a.grantee
WHERE a.privilege_type = 'TRIGGER' AND a.grantee <> t.relowner
  AND (a.grantee = 0 OR NOT (SELECT pg_has_role(a.grantee, us.datdba, 'USAGE') OR pg_has_role(a.grantee, us.role, 'USAGE')
                             FROM us))
UNION ALL
SELECT 'trap', t.name || ' has a column ' || a.attname || ' that computes'
FROM tables t JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped
JOIN pg_type y ON y.oid = a.atttypid LEFT JOIN pg_attrdef d ON d.adrelid = t.oid AND d.adnum = a.attnum
WHERE t.relkind = 'r'
  AND (y.typtype <> 'b' OR y.typnamespace <> 'pg_catalog'::regnamespace OR a.attgenerated <> ''
       OR pg_get_expr(d.adbin, d.adrelid) NOT IN (SELECT expression FROM defaults))
UNION ALL
SELECT 'trap', t.name || ' has the index ' || i.indexrelid::regclass::text || ' that computes'
FROM tables t JOIN pg_index i ON i.indrelid = t.oid
WHERE i.indexprs IS NOT NULL OR pg_get_expr(i.indpred, i.indrelid) <> '(write_mode = ''append''::text)'
   OR i.indisexclusion
   OR EXISTS (SELECT FROM pg_opclass o WHERE o.oid = ANY (i.indclass::oid[]) AND o.opcnamespace <> 'pg_catalog'::regnamespace)

-- name: check
-- Fails if there is a suspicion, and with it the rest of its message: then no table is touched. It casts no constant, which
-- would fail while the query is planned.
SELECT (SELECT 'untrusted schema: ' || string_agg(found.kind || ' ' || found.what, '; ') FROM ({suspicions}) AS found)::int;

-- name: beside
-- The state of the schema, with the suspicions against it.
SELECT present.*, (SELECT COALESCE(array_agg(ARRAY[found.kind, found.what]), '{}') FROM ({suspicions}) AS found) AS suspicions
FROM ({present}) AS present

-- name: keys
-- Whether the fence and the ledger have the unique keys that they rely on. Layout 3 had the key of slices without `follows`.
SELECT count(DISTINCT (i.indrelid, replace(k.columns, ',follows', ''))) = 7 AS whole
FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = 'safecopy'
CROSS JOIN LATERAL (
    SELECT string_agg(a.attname::text, ',' ORDER BY k.at) AS columns
    FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, at)
    JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
) AS k
WHERE i.indisunique AND i.indisvalid AND i.indimmediate
  AND (c.relname::text, k.columns) IN (
      ('lock', 'name'), ('lock', 'name,token,lease_id'), ('member', 'name,token,member_key'),
      ('member', 'name,token,member_key,member_id'), ('receipt', 'attempt'), ('receipt', 'target,slice'), ('receipt', 'target,slice,follows'),
      ('watermark', 'target,origin'))

-- name: take_schema
ALTER SCHEMA safecopy OWNER TO CURRENT_USER

-- name: foreign_tables
-- Our tables whose owner is another role.
SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = 'safecopy' AND c.relname IN ('lock', 'member', 'lock_event', 'receipt', 'watermark')
  AND c.relowner <> (SELECT r.oid FROM pg_roles r WHERE r.rolname = current_user)

-- name: trigger_makers
-- Other roles that may make triggers on them; NULL is PUBLIC.
SELECT DISTINCT c.relname::text, r.rolname::text
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace CROSS JOIN LATERAL aclexplode(c.relacl) a
LEFT JOIN pg_roles r ON r.oid = a.grantee
WHERE n.nspname = 'safecopy' AND c.relname IN ('lock', 'member', 'lock_event', 'receipt', 'watermark')
  AND a.privilege_type = 'TRIGGER' AND a.grantee <> c.relowner

-- name: former
-- A table of the renamed schema, if this role may read its rows.
SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname::text = %(schema)s::text AND c.relname::text = %(name)s::text AND c.relkind = 'r'
  AND has_table_privilege(c.oid, 'SELECT')
  AND (NOT c.relrowsecurity OR (SELECT r.rolsuper OR r.rolbypassrls FROM pg_roles r WHERE r.rolname = current_user))

-- name: columns
-- The columns that COPY can read without running code: stored columns of built-in types that the new table has too; and
-- which of these a row must have.
SELECT own.attname::text, own.attnotnull AND own.attidentity = '' AS required, f.attnum IS NOT NULL AS there
FROM pg_attribute own
LEFT JOIN pg_attribute f ON f.attrelid = %(former)s::oid AND f.attname = own.attname AND f.atttypid = own.atttypid
     AND f.attnum > 0 AND NOT f.attisdropped AND f.attgenerated = ''
WHERE own.attrelid = %(own)s::regclass AND own.attnum > 0 AND NOT own.attisdropped
ORDER BY own.attnum

-- name: trusted_by
-- Whether another role would trust the schema, by the rule above.
SELECT bool_and(o.rolname = 'pg_database_owner' OR pg_has_role(o.oid, d.datdba, 'USAGE') OR pg_has_role(o.oid, r.oid, 'USAGE'))
FROM pg_namespace n JOIN pg_roles o ON o.oid = n.nspowner, pg_database d, pg_roles r
WHERE n.nspname = 'safecopy' AND d.datname = current_database() AND r.rolname = %(role)s::text
