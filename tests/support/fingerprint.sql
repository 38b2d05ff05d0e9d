-- What hangs on a table, by name: each question answers with an object and the facts of it. Asked under
-- search_path = pg_catalog, so that whatever is the user's is shown with its schema. %(hung)s are the relations that
-- `hung` has found. Columns of the catalog that not every major has are taken out of to_jsonb().

-- name: hung
-- The table, its partitions and children, the sequences it owns or draws from, the views and materialized views that
-- read any of them, nested, and the tables whose rules mention any of them.
WITH RECURSIVE hung(oid) AS (
    SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname::text = %(schema)s::text AND c.relname::text = %(table)s::text
    UNION
    SELECT each.oid FROM hung CROSS JOIN LATERAL (
        SELECT inhrelid FROM pg_inherits WHERE inhparent = hung.oid
        UNION ALL
        SELECT s.oid FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
        WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = hung.oid
        UNION ALL
        SELECT s.oid FROM pg_attrdef f JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid
        JOIN pg_class s ON d.refclassid = 'pg_class'::regclass AND s.oid = d.refobjid AND s.relkind = 'S'
        WHERE f.adrelid = hung.oid
        UNION ALL
        SELECT r.ev_class FROM pg_depend d JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
        WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = hung.oid
    ) AS each(oid)
)
SELECT oid FROM hung;

-- name: relations
SELECT 'relation ' || c.oid::regclass, jsonb_build_object(
    'kind', c.relkind,
    'persistence', c.relpersistence,
    'tablespace', (SELECT spcname FROM pg_tablespace t WHERE t.oid = c.reltablespace),
    'access method', (SELECT amname FROM pg_am m WHERE m.oid = c.relam),
    'owner', pg_get_userbyid(c.relowner),
    'options', ARRAY(SELECT unnest(c.reloptions) ORDER BY 1),
    'toast options', ARRAY(SELECT unnest(t.reloptions) FROM pg_class t WHERE t.oid = c.reltoastrelid ORDER BY 1),
    'row security', c.relrowsecurity,
    'forced row security', c.relforcerowsecurity,
    'replica identity', c.relreplident,
    'type', NULLIF(c.reloftype, 0)::regtype::text,
    'partition key', pg_get_partkeydef(c.oid),
    'partition bound', pg_get_expr(c.relpartbound, c.oid),
    'populated', c.relispopulated,
    'parents', ARRAY(SELECT inhparent::regclass::text FROM pg_inherits WHERE inhrelid = c.oid ORDER BY inhseqno),
    'children', ARRAY(SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = c.oid ORDER BY 1),
    'comment', obj_description(c.oid, 'pg_class'),
    'comment on its type', obj_description(c.reltype, 'pg_type'),
    'sequence', (SELECT to_jsonb(s) - 'seqrelid' || jsonb_build_object('seqtypid', s.seqtypid::regtype::text)
                 FROM pg_sequence s WHERE s.seqrelid = c.oid),
    'owned by', (SELECT d.refobjid::regclass || '.' || quote_ident(a.attname) || ' ' || d.deptype::text FROM pg_depend d
                 JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
                 WHERE c.relkind = 'S' AND d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype IN ('a', 'i')),
    'grants', ARRAY(
        SELECT g.privilege_type || ' to ' || CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(g.grantee)) END
               || CASE WHEN g.is_grantable THEN ' with grant option' ELSE '' END || ' by ' || quote_ident(pg_get_userbyid(g.grantor))
        FROM aclexplode(COALESCE(c.relacl, acldefault(CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", c.relowner))) g
        ORDER BY 1))
FROM pg_class c WHERE c.oid = ANY (%(hung)s);

-- name: columns
SELECT 'column ' || a.attrelid::regclass || '.' || quote_ident(a.attname), jsonb_build_object(
    'position', row_number() OVER (PARTITION BY a.attrelid ORDER BY a.attnum),
    'type', format_type(a.atttypid, a.atttypmod),
    'collation', NULLIF(a.attcollation, 0)::regcollation::text,
    'not null', a.attnotnull,
    'default', (SELECT pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef d WHERE d.adrelid = a.attrelid AND d.adnum = a.attnum),
    'identity', a.attidentity,
    'generated', a.attgenerated,
    'storage', a.attstorage,
    'compression', a.attcompression,
    'statistics target', COALESCE((to_jsonb(a) ->> 'attstattarget')::int, -1),
    'options', ARRAY(SELECT unnest(a.attoptions) ORDER BY 1),
    'inherited', jsonb_build_array(a.attinhcount, a.attislocal),
    'comment', col_description(a.attrelid, a.attnum),
    'grants', ARRAY(
        SELECT g.privilege_type || ' to ' || CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(g.grantee)) END
               || CASE WHEN g.is_grantable THEN ' with grant option' ELSE '' END || ' by ' || quote_ident(pg_get_userbyid(g.grantor))
        FROM aclexplode(a.attacl) g ORDER BY 1))
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
WHERE a.attrelid = ANY (%(hung)s) AND a.attnum > 0 AND NOT a.attisdropped AND c.relkind <> 'S';

-- name: indexes
SELECT 'index ' || i.indexrelid::regclass || ' on ' || i.indrelid::regclass, jsonb_build_object(
    'definition', pg_get_indexdef(i.indexrelid),
    'options', ARRAY(SELECT unnest(c.reloptions) ORDER BY 1),
    'tablespace', (SELECT spcname FROM pg_tablespace t WHERE t.oid = c.reltablespace),
    'owner', pg_get_userbyid(c.relowner),
    'valid', i.indisvalid AND i.indisready AND i.indislive,
    'clustered', i.indisclustered,
    'replica identity', i.indisreplident,
    'unique', i.indisunique,
    'primary', i.indisprimary,
    'immediate', i.indimmediate,
    'statistics targets', (SELECT jsonb_object_agg(a.attnum, t.target) FROM pg_attribute a
                           CROSS JOIN LATERAL (SELECT (to_jsonb(a) ->> 'attstattarget')::int AS target) t
                           WHERE a.attrelid = c.oid AND t.target >= 0),
    'parents', ARRAY(SELECT inhparent::regclass::text FROM pg_inherits WHERE inhrelid = c.oid ORDER BY inhseqno),
    'comment', obj_description(c.oid, 'pg_class'))
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE i.indrelid = ANY (%(hung)s);

-- name: constraints
-- Those of other tables that refer to ours among them. The triggers that do a foreign key's work have names of no
-- meaning; how each is enabled is told by what it does, and where.
SELECT 'constraint ' || quote_ident(k.conname) || ' on ' || k.conrelid::regclass, jsonb_build_object(
    'kind', k.contype,
    'definition', pg_get_constraintdef(k.oid),
    'index', NULLIF(k.conindid, 0)::regclass::text,
    'validated', k.convalidated,
    'deferrable', k.condeferrable,
    'deferred', k.condeferred,
    'enforced', COALESCE((to_jsonb(k) ->> 'conenforced')::bool, true),
    'no inherit', k.connoinherit,
    'inherited', jsonb_build_array(k.coninhcount, k.conislocal),
    'parent', (SELECT quote_ident(p.conname) || ' on ' || p.conrelid::regclass FROM pg_constraint p WHERE p.oid = k.conparentid),
    'triggers', ARRAY(SELECT t.tgfoid::regproc || ' on ' || t.tgrelid::regclass || ' ' || t.tgenabled::text
                      FROM pg_trigger t WHERE t.tgconstraint = k.oid ORDER BY 1),
    'comment', obj_description(k.oid, 'pg_constraint'))
FROM pg_constraint k WHERE k.conrelid = ANY (%(hung)s) OR k.confrelid = ANY (%(hung)s);

-- name: triggers
SELECT 'trigger ' || quote_ident(t.tgname) || ' on ' || t.tgrelid::regclass, jsonb_build_object(
    'definition', pg_get_triggerdef(t.oid),
    'enabled', t.tgenabled,
    'parent', (SELECT quote_ident(p.tgname) || ' on ' || p.tgrelid::regclass FROM pg_trigger p WHERE p.oid = t.tgparentid),
    'comment', obj_description(t.oid, 'pg_trigger'))
FROM pg_trigger t WHERE t.tgrelid = ANY (%(hung)s) AND NOT t.tgisinternal;

-- name: rules
-- A view's query is one of them.
SELECT 'rule ' || quote_ident(r.rulename) || ' on ' || r.ev_class::regclass, jsonb_build_object(
    'definition', pg_get_ruledef(r.oid),
    'enabled', r.ev_enabled,
    'comment', obj_description(r.oid, 'pg_rewrite'))
FROM pg_rewrite r WHERE r.ev_class = ANY (%(hung)s);

-- name: policies
SELECT 'policy ' || quote_ident(p.polname) || ' on ' || p.polrelid::regclass, jsonb_build_object(
    'command', p.polcmd,
    'permissive', p.polpermissive,
    'roles', ARRAY(SELECT CASE r WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(r) END FROM unnest(p.polroles) r ORDER BY 1),
    'using', pg_get_expr(p.polqual, p.polrelid),
    'with check', pg_get_expr(p.polwithcheck, p.polrelid),
    'comment', obj_description(p.oid, 'pg_policy'))
FROM pg_policy p WHERE p.polrelid = ANY (%(hung)s);

-- name: statistics
SELECT 'statistics ' || x.stxnamespace::regnamespace || '.' || quote_ident(x.stxname) || ' on ' || x.stxrelid::regclass,
    jsonb_build_object(
        'definition', pg_get_statisticsobjdef(x.oid),
        'owner', pg_get_userbyid(x.stxowner),
        'target', COALESCE((to_jsonb(x) ->> 'stxstattarget')::int, -1),
        'comment', obj_description(x.oid, 'pg_statistic_ext'))
FROM pg_statistic_ext x WHERE x.stxrelid = ANY (%(hung)s);

-- name: functions
-- Those that need one of ours, or its row type; those that merely name it in their text are not touched by anything.
SELECT 'function ' || p.oid::regprocedure, jsonb_build_object(
    'definition', CASE p.prokind WHEN 'a' THEN pg_get_function_result(p.oid) ELSE pg_get_functiondef(p.oid) END,
    'owner', pg_get_userbyid(p.proowner),
    'grants', ARRAY(SELECT acl::text FROM unnest(COALESCE(p.proacl, acldefault('f', p.proowner))) acl ORDER BY 1),
    'comment', obj_description(p.oid, 'pg_proc'))
FROM pg_proc p WHERE EXISTS (
    SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND (
        d.refclassid = 'pg_class'::regclass AND d.refobjid = ANY (%(hung)s)
        OR d.refclassid = 'pg_type'::regclass AND d.refobjid IN (
            SELECT t.oid FROM pg_class c JOIN pg_type t ON t.oid = c.reltype OR c.reltype <> 0 AND t.typelem = c.reltype
            WHERE c.oid = ANY (%(hung)s))));

-- name: publications
SELECT 'publication ' || quote_ident(p.pubname) || ' of ' || r.prrelid::regclass, jsonb_build_object(
    'filter', pg_get_expr(r.prqual, r.prrelid),
    'columns', (SELECT array_agg(a.attname ORDER BY a.attnum) FROM pg_attribute a
                WHERE a.attrelid = r.prrelid AND a.attnum = ANY (r.prattrs)))
FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid WHERE r.prrelid = ANY (%(hung)s);

-- name: published
-- Through whatever publication: for all tables, for a schema, or by a parent.
SELECT 'published by ' || quote_ident(t.pubname) || ': ' || c.oid::regclass,
    jsonb_build_object('filter', t.rowfilter, 'columns', ARRAY(SELECT unnest(t.attnames) ORDER BY 1))
FROM pg_publication_tables t JOIN pg_namespace n ON n.nspname = t.schemaname
JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename WHERE c.oid = ANY (%(hung)s);

-- name: subscriptions
SELECT 'subscription ' || quote_ident(s.subname) || ' to ' || r.srrelid::regclass, jsonb_build_object('state', r.srsubstate)
FROM pg_subscription_rel r JOIN pg_subscription s ON s.oid = r.srsubid WHERE r.srrelid = ANY (%(hung)s);

-- name: labels
SELECT 'security labels of ' || pg_describe_object(l.classoid, l.objoid, l.objsubid), jsonb_object_agg(l.provider, l.label)
FROM pg_seclabel l WHERE l.classoid = 'pg_class'::regclass AND l.objoid = ANY (%(hung)s) GROUP BY 1;

-- name: dependencies
-- All the server knows of, in both directions: for whatever no other question asks about.
WITH part AS (
    SELECT 'pg_class'::regclass AS classid, oid FROM unnest(%(hung)s::oid[]) AS oid
    UNION ALL
    SELECT 'pg_type'::regclass, t.oid
    FROM pg_class c JOIN pg_type t ON t.oid = c.reltype OR c.reltype <> 0 AND t.typelem = c.reltype
    WHERE c.oid = ANY (%(hung)s)
)
SELECT pg_describe_object(d.classid, d.objid, d.objsubid) || ' depends on '
       || pg_describe_object(d.refclassid, d.refobjid, d.refobjsubid),
       jsonb_build_object('how', string_agg(DISTINCT d.deptype::text, ''))
FROM pg_depend d
WHERE ((d.refclassid, d.refobjid) IN (SELECT classid, oid FROM part) OR (d.classid, d.objid) IN (SELECT classid, oid FROM part))
  AND NOT (d.classid = 'pg_class'::regclass AND d.objid IN (SELECT oid FROM pg_class WHERE relkind = 't'))
  AND NOT (d.classid = 'pg_trigger'::regclass AND d.objid IN (SELECT oid FROM pg_trigger WHERE tgisinternal))
GROUP BY 1;

-- name: present
-- Everything there is in the database, so that nothing more is there afterwards. Our own schema may fill; staging
-- may not stay in it.
WITH place AS (
    SELECT oid FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname NOT IN ('information_schema', 'safecopy')
), thing AS (
    SELECT 'pg_namespace'::regclass AS classid, oid FROM place
    UNION ALL SELECT 'pg_class'::regclass, oid FROM pg_class
              WHERE relnamespace IN (SELECT oid FROM place) OR strpos(relname, '__safecopy_') > 0
    UNION ALL SELECT 'pg_type'::regclass, oid FROM pg_type WHERE typnamespace IN (SELECT oid FROM place)
    UNION ALL SELECT 'pg_proc'::regclass, oid FROM pg_proc WHERE pronamespace IN (SELECT oid FROM place)
    UNION ALL SELECT 'pg_constraint'::regclass, oid FROM pg_constraint WHERE connamespace IN (SELECT oid FROM place)
    UNION ALL SELECT 'pg_statistic_ext'::regclass, oid FROM pg_statistic_ext WHERE stxnamespace IN (SELECT oid FROM place)
    UNION ALL SELECT 'pg_rewrite'::regclass, r.oid FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class
              WHERE c.relnamespace IN (SELECT oid FROM place)
    UNION ALL SELECT 'pg_trigger'::regclass, t.oid FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
              WHERE c.relnamespace IN (SELECT oid FROM place) AND NOT t.tgisinternal
    UNION ALL SELECT 'pg_policy'::regclass, oid FROM pg_policy
    UNION ALL SELECT 'pg_publication'::regclass, oid FROM pg_publication
    UNION ALL SELECT 'pg_event_trigger'::regclass, oid FROM pg_event_trigger
)
SELECT 'present: ' || pg_describe_object(classid, oid, 0), jsonb_build_object('times', count(*)) FROM thing GROUP BY 1;

-- name: analyzed
SELECT a.attrelid::regclass || '.' || quote_ident(a.attname)
FROM pg_statistic s JOIN pg_attribute a ON a.attrelid = s.starelid AND a.attnum = s.staattnum
WHERE s.starelid = ANY (%(hung)s) AND COALESCE((to_jsonb(a) ->> 'attstattarget')::int, -1) <> 0
UNION
SELECT 'statistics ' || x.stxnamespace::regnamespace || '.' || quote_ident(x.stxname)
FROM pg_statistic_ext_data d JOIN pg_statistic_ext x ON x.oid = d.stxoid WHERE x.stxrelid = ANY (%(hung)s);

-- name: sequences
SELECT n.nspname::text, c.relname::text, c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = ANY (%(hung)s) AND c.relkind = 'S' ORDER BY 3
