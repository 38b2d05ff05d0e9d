-- Questions about a server and its tables. Names are compared as text: compared as `name`, a literal
-- over 63 bytes would be cut silently. Every statement runs under search_path = pg_catalog.

-- name: own
-- What the role itself would have; asked before it is pinned, and hence spelled with its schema.
SELECT pg_catalog.current_schemas(false)::pg_catalog.text[] AS search_path,
       pg_catalog.current_setting('lc_monetary') AS lc_monetary

-- name: pin
-- `statements.settings` pins the settings that decide what rows mean; these are the others.
-- The last of them are not known to every major. A question is planned once, for whatever table it is asked of, and
-- never compiled, which takes longer than to answer it. A server asks by itself whether we are still there: of a client
-- that has vanished without a word (power, network) it would hear after two hours, and keep its session until then.
SELECT set_config('default_transaction_isolation', 'read committed', false),
       set_config('statement_timeout', '0', false), set_config('lock_timeout', '0', false),
       set_config('idle_in_transaction_session_timeout', '0', false), set_config('idle_session_timeout', '0', false),
       set_config('tcp_keepalives_idle', '30', false), set_config('tcp_keepalives_interval', '10', false),
       set_config('tcp_keepalives_count', '3', false),
       set_config('plan_cache_mode', 'force_generic_plan', false), set_config('jit', 'off', false),
       CASE WHEN current_setting('server_version_num')::int >= 140000
            THEN set_config('client_connection_check_interval', '2s', false) END,
       CASE WHEN current_setting('server_version_num')::int >= 170000 THEN set_config('transaction_timeout', '0', false) END

-- name: as_the_role
-- For the rest of the transaction what the role and the database say: triggers, checks and defaults of the
-- user's run in a publish, and may look up names, the date or the time as they always did.
SET LOCAL search_path TO DEFAULT; SET LOCAL TimeZone TO DEFAULT; SET LOCAL DateStyle TO DEFAULT;
SET LOCAL IntervalStyle TO DEFAULT; SET LOCAL extra_float_digits TO DEFAULT; SET LOCAL bytea_output TO DEFAULT;
SET LOCAL lc_monetary TO DEFAULT; SET LOCAL xmloption TO DEFAULT; SET LOCAL array_nulls TO DEFAULT;
SET LOCAL quote_all_identifiers TO DEFAULT; SET LOCAL standard_conforming_strings TO DEFAULT;
SET LOCAL plan_cache_mode TO DEFAULT; SET LOCAL jit TO DEFAULT

-- name: read_only
SELECT set_config('default_transaction_read_only', 'on', false)

-- name: server
SELECT current_setting('server_version_num')::int / 10000 AS major,
       current_setting('server_version') AS version,
       current_setting('server_encoding') AS encoding,
       current_database()::text AS database,
       current_user::text AS role,
       pg_backend_pid() AS backend,
       pg_is_in_recovery() AS in_recovery,
       current_setting('transaction_read_only')::bool AS read_only,
       has_database_privilege(current_database(), 'CREATE') AS may_create,
       pg_postmaster_start_time()::text || ' ' || (SELECT oid FROM pg_database WHERE datname = current_database()) AS identity,
       ARRAY(SELECT DISTINCT CASE a.grantee WHEN 0 THEN '' ELSE pg_get_userbyid(a.grantee)::text END
             FROM pg_default_acl d CROSS JOIN LATERAL aclexplode(d.defaclacl) a
             WHERE d.defaclrole = (SELECT oid FROM pg_roles WHERE rolname = current_user) AND d.defaclobjtype = 'r' AND a.grantee <> d.defaclrole
               AND d.defaclnamespace IN (0, COALESCE(to_regnamespace('safecopy')::oid, 0))) AS grantees,
       (EXTRACT(epoch FROM current_setting('deadlock_timeout')::interval))::float8 AS deadlock_seconds

-- name: publications
-- Publications that send the tables of the schema safecopy to subscribers, even if there are none yet.
SELECT p.pubname::text AS name FROM pg_publication p
WHERE p.puballtables
   OR EXISTS (SELECT FROM pg_publication_rel r JOIN pg_class c ON c.oid = r.prrelid
              WHERE r.prpubid = p.oid AND c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = 'safecopy'))
ORDER BY 1

-- name: publications_of_schema
-- From version 15 on: a publication may name schemas.
SELECT p.pubname::text AS name FROM pg_publication p JOIN pg_publication_namespace s ON s.pnpubid = p.oid
JOIN pg_namespace n ON n.oid = s.pnnspid WHERE n.nspname = 'safecopy' ORDER BY 1

-- name: home
-- Where an unqualified name is found: the first schema of the session's own search_path that holds it.
SELECT s.name::text
FROM unnest(%(path)s::text[]) WITH ORDINALITY AS s(name, position)
JOIN pg_namespace n ON n.nspname::text = s.name
JOIN pg_class c ON c.relnamespace = n.oid AND c.relname::text = %(name)s::text
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f')
ORDER BY s.position LIMIT 1

-- name: spelling
-- The name's length in the server's own encoding, which is what the 63 bytes are counted in. A codec of Python's may
-- disagree with the server's on any but UTF-8.
SELECT octet_length(%(name)s::text)

-- name: relation
SELECT c.oid, c.relkind::text AS kind, c.relpersistence::text AS persistence,
       GREATEST(c.reltuples, 0)::bigint AS estimated_rows,
       row_security_active(c.oid) AS filtered,
       pg_get_userbyid(c.relowner)::text AS owner,
       has_schema_privilege(n.oid, 'USAGE') AS may_enter,
       has_table_privilege(c.oid, 'SELECT') OR has_any_column_privilege(c.oid, 'SELECT') AS may_select,
       has_table_privilege(c.oid, 'SELECT') AS may_select_whole,
       has_table_privilege(c.oid, 'INSERT') OR has_any_column_privilege(c.oid, 'INSERT') AS may_insert,
       has_table_privilege(c.oid, 'UPDATE') OR has_any_column_privilege(c.oid, 'UPDATE') AS may_update,
       has_table_privilege(c.oid, 'DELETE') AS may_delete,
       has_table_privilege(c.oid, 'TRUNCATE') AS may_truncate,
       EXISTS (SELECT FROM pg_inherits i WHERE i.inhparent = c.oid) AND c.relkind = 'r' AS has_children,
       ARRAY(SELECT r.rulename::text FROM pg_rewrite r WHERE r.ev_class = c.oid AND r.ev_type <> '1'
             ORDER BY 1) AS rules,
       -- Row triggers that fire before: they may change what is written, or swallow it.
       ARRAY(SELECT g.tgname::text FROM pg_trigger g
             WHERE g.tgrelid = c.oid AND NOT g.tgisinternal AND g.tgenabled IN ('O', 'A')
               AND g.tgtype & 3 = 3 AND g.tgtype & 20 <> 0 ORDER BY 1) AS meddlers,
       ARRAY(SELECT g.tgname::text FROM pg_trigger g
             WHERE g.tgrelid = c.oid AND NOT g.tgisinternal AND g.tgenabled IN ('O', 'A') ORDER BY 1) AS triggers,
       -- Keys on periods of time, of version 18 on.
       ARRAY(SELECT k.conname::text FROM pg_constraint k
             WHERE k.conrelid = c.oid AND k.contype IN ('p', 'u') AND (to_jsonb(k) ->> 'conperiod')::bool ORDER BY 1) AS temporal_keys,
       -- Functions and operators of a user's that a planner may have to look into: those of indexes, statistics and computed
       -- columns. A function written in SQL names things, and where it gives no schema it depends on the search_path.
       EXISTS (SELECT FROM (
                   SELECT 'pg_class'::regclass, i.indexrelid FROM pg_index i WHERE i.indrelid = ANY (tree.oids)
                   UNION ALL SELECT 'pg_statistic_ext'::regclass, x.oid FROM pg_statistic_ext x WHERE x.stxrelid = ANY (tree.oids)
                   UNION ALL SELECT 'pg_constraint'::regclass, k.oid FROM pg_constraint k WHERE k.conrelid = ANY (tree.oids) AND k.contype = 'c'
                   UNION ALL SELECT 'pg_attrdef'::regclass, f.oid FROM pg_attrdef f WHERE f.adrelid = ANY (tree.oids)
               ) AS thing(class, oid)
               JOIN pg_depend d ON d.classid = thing.class AND d.objid = thing.oid
               WHERE d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass) AND d.refobjid >= 16384) AS calls_functions,
       kin.kin_schemas, kin.kin_names, inbound.referenced_by, inbound.deletes_spread_by,
       nameless.published_without_identity, nameless.update_without_identity,
       unfit.updates_refused_by, unfit.deletes_refused_by
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
-- The table with its partitions: a foreign key may refer to any of them, or to the parent of the one that is asked for.
-- Not by pg_partition_tree, which locks the partitions: all others lock the parent first, so that would be a deadlock.
CROSS JOIN LATERAL (
    SELECT ARRAY(WITH RECURSIVE part AS (
                     SELECT c.oid
                     UNION SELECT i.inhrelid FROM part p JOIN pg_class a ON a.oid = p.oid AND a.relkind = 'p'
                                             JOIN pg_inherits i ON i.inhparent = p.oid
                 ) SELECT part.oid FROM part) AS oids
) AS tree
-- Its partitions at any depth, and its parents: tables that share rows with it.
CROSS JOIN LATERAL (
    SELECT COALESCE(array_agg(kn.nspname::text ORDER BY k.oid), '{}') AS kin_schemas,
           COALESCE(array_agg(kc.relname::text ORDER BY k.oid), '{}') AS kin_names
    FROM (SELECT unnest(tree.oids) UNION SELECT relid::oid FROM pg_partition_ancestors(c.oid)) AS k(oid)
    JOIN pg_class kc ON kc.oid = k.oid JOIN pg_namespace kn ON kn.oid = kc.relnamespace
    WHERE k.oid <> c.oid
) AS kin
CROSS JOIN LATERAL (
    SELECT COALESCE(array_agg(DISTINCT name), '{}') AS referenced_by,
           COALESCE(array_agg(DISTINCT name) FILTER (WHERE confdeltype IN ('c', 'n', 'd')), '{}') AS deletes_spread_by
    FROM (SELECT f.conname::text || ' on ' || f.conrelid::regclass::text AS name, f.confdeltype
          FROM pg_constraint f
          WHERE f.contype = 'f' AND f.confrelid = ANY (tree.oids) AND f.conrelid <> ALL (tree.oids)
            AND NOT EXISTS (SELECT FROM pg_constraint p
                            WHERE p.oid = f.conparentid AND p.confrelid = ANY (tree.oids))) AS f
) AS inbound
-- A publication that has no key to name a row by. Publications are looked at for tables without such a key only.
CROSS JOIN LATERAL (
    SELECT COALESCE(bool_or('d' = ANY (published.what)), false) AS published_without_identity,
           COALESCE(bool_or('u' = ANY (published.what)), false) AS update_without_identity
    FROM (SELECT ARRAY(SELECT unnest(ARRAY[CASE WHEN p.pubdelete THEN 'd' END, CASE WHEN p.pubupdate THEN 'u' END])
                       FROM pg_publication_tables t JOIN pg_publication p USING (pubname)
                       JOIN pg_namespace tn ON tn.nspname = t.schemaname
                       JOIN pg_class tc ON tc.relnamespace = tn.oid AND tc.relname = t.tablename
                       WHERE tc.oid = leaf.oid OR tc.oid IN (SELECT relid FROM pg_partition_ancestors(leaf.oid))) AS what
          FROM pg_class leaf
          WHERE leaf.oid = ANY (tree.oids) AND leaf.relkind = 'r'
            AND NOT (leaf.relreplident = 'f'
                     OR EXISTS (SELECT FROM pg_index i WHERE i.indrelid = leaf.oid
                                AND (i.indisreplident OR leaf.relreplident = 'd' AND i.indisprimary)))) AS published
) AS nameless
-- Publications that refuse to send changes: a row filter names a column outside of the replica identity, a column list
-- leaves one of its columns out (from version 15 on), or a generated column belongs to it that is not sent (18).
CROSS JOIN LATERAL (
    SELECT COALESCE(array_agg(DISTINCT refusing.name ORDER BY refusing.name) FILTER (WHERE refusing.updates), '{}') AS updates_refused_by,
           COALESCE(array_agg(DISTINCT refusing.name ORDER BY refusing.name) FILTER (WHERE refusing.deletes), '{}') AS deletes_refused_by
    FROM (
        SELECT p.pubname::text AS name, p.pubupdate AS updates, p.pubdelete AS deletes
        FROM pg_class leaf
        CROSS JOIN LATERAL (
            SELECT array_agg(a.attname) AS columns FROM pg_attribute a
            WHERE a.attrelid = leaf.oid AND a.attnum > 0 AND NOT a.attisdropped
              AND (leaf.relreplident = 'f'
                   OR EXISTS (SELECT FROM pg_index i WHERE i.indrelid = leaf.oid AND a.attnum = ANY (i.indkey)
                                AND (i.indisreplident OR leaf.relreplident = 'd' AND i.indisprimary)))
        ) AS identity
        CROSS JOIN pg_publication p
        CROSS JOIN LATERAL (
            SELECT sent.prrelid, to_jsonb(sent) ->> 'prqual' AS filter, to_jsonb(sent) -> 'prattrs' AS numbers
            FROM pg_publication_rel sent
            WHERE sent.prpubid = p.oid
              AND sent.prrelid = COALESCE((SELECT above.relid::oid
                                           FROM pg_partition_ancestors(leaf.oid) WITH ORDINALITY AS above(relid, position)
                                           JOIN pg_publication_rel listed ON listed.prpubid = p.oid AND listed.prrelid = above.relid
                                           WHERE p.pubviaroot ORDER BY position DESC LIMIT 1), leaf.oid)
        ) AS sent
        WHERE leaf.oid = ANY (tree.oids) AND leaf.relkind = 'r' AND identity.columns IS NOT NULL
          AND (jsonb_typeof(sent.numbers) = 'array' AND leaf.relreplident = 'f'
               OR EXISTS (SELECT FROM pg_attribute a
                          WHERE a.attrelid = sent.prrelid AND a.attnum > 0 AND NOT a.attisdropped
                            AND CASE WHEN a.attname = ANY (identity.columns)
                                     THEN jsonb_typeof(sent.numbers) = 'array' AND NOT sent.numbers @> to_jsonb(a.attnum)
                                     ELSE strpos(sent.filter, format(':varattno %%s ', a.attnum)) > 0 END))
        UNION ALL
        SELECT p.pubname::text, p.pubupdate, p.pubdelete
        FROM pg_class leaf JOIN pg_publication p ON to_jsonb(p) ->> 'pubgencols' = 'n'
        WHERE leaf.oid = ANY (tree.oids) AND leaf.relkind = 'r' AND leaf.relreplident = 'f'
          AND EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = leaf.oid AND a.attgenerated <> '' AND NOT a.attisdropped)
          AND EXISTS (SELECT FROM pg_publication_tables t JOIN pg_namespace tn ON tn.nspname = t.schemaname
                      JOIN pg_class tc ON tc.relnamespace = tn.oid AND tc.relname = t.tablename
                      WHERE t.pubname = p.pubname
                        AND (tc.oid = leaf.oid OR tc.oid IN (SELECT relid FROM pg_partition_ancestors(leaf.oid))))
    ) AS refusing
) AS unfit
WHERE n.nspname::text = %(schema)s::text AND c.relname::text = %(name)s::text
  -- The same, cut where it is too long, for the index's sake.
  AND n.nspname = %(schema)s::text::name AND c.relname = %(name)s::text::name

-- name: columns
SELECT a.attname::text AS name, a.attnum AS number, a.atttypid AS type_oid,
       format_type(a.atttypid, a.atttypmod) AS type,
       a.attnotnull AS not_null,
       a.atthasdef OR a.attidentity <> '' AS has_default,
       a.attidentity <> '' AS identity,
       a.attidentity = 'a' AS always,
       a.attgenerated <> '' AS generated,
       has_column_privilege(a.attrelid, a.attnum, 'SELECT') AS may_select,
       has_column_privilege(a.attrelid, a.attnum, 'INSERT') AS may_insert,
       has_column_privilege(a.attrelid, a.attnum, 'UPDATE') AS may_update
FROM pg_attribute a
WHERE a.attrelid = %(oid)s AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum

-- name: types
-- What two types must also have in common, and whether binary may be used. `inner_shape` says it one level deep, for
-- people; `structure` at every depth, in names without their schemas; `origins` says where each type comes from that is
-- not made of others: from an extension, which may lie in another schema elsewhere, or from a schema of its own.
WITH RECURSIVE asked AS (
    SELECT DISTINCT oid FROM unnest(%(oids)s::oid[]) AS oid
), part AS (
    SELECT a.oid AS asked, t.* FROM asked a JOIN pg_type t ON t.oid = a.oid
    UNION ALL
    SELECT a.oid, e.* FROM asked a JOIN pg_type t ON t.oid = a.oid AND t.typcategory = 'A' JOIN pg_type e ON e.oid = t.typelem
), shaped AS (
    SELECT p.*, CASE p.typtype
        WHEN 'e' THEN (SELECT string_agg(quote_literal(l.enumlabel), ', ' ORDER BY l.enumsortorder)
                       FROM pg_enum l WHERE l.enumtypid = p.oid)
        WHEN 'c' THEN (SELECT string_agg(quote_ident(a.attname) || ' ' || format_type(a.atttypid, a.atttypmod), ', '
                                         ORDER BY a.attnum)
                       FROM pg_attribute a WHERE a.attrelid = p.typrelid AND a.attnum > 0 AND NOT a.attisdropped)
        WHEN 'd' THEN format_type(p.typbasetype, p.typtypmod)
        END AS made_of
    FROM part p
), node AS (
    -- What is built in has an oid below 16384, and is the same everywhere.
    SELECT oid AS asked, ''::text COLLATE "C" AS path, oid, -1 AS typmod FROM asked WHERE oid >= 16384
    UNION ALL
    SELECT n.asked, n.path || inner_type.step COLLATE "C", inner_type.oid, inner_type.typmod
    FROM node n JOIN pg_type t ON t.oid = n.oid AND t.oid >= 16384
    CROSS JOIN LATERAL (
        SELECT ' []', t.typelem, n.typmod WHERE t.typcategory = 'A' AND t.typelem <> 0
        UNION ALL
        SELECT ' over', t.typbasetype, t.typtypmod WHERE t.typtype = 'd'
        UNION ALL
        SELECT format(' %%s %%I', to_char(row_number() OVER (ORDER BY a.attnum), '0000'), a.attname), a.atttypid, a.atttypmod
        FROM pg_attribute a WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
        UNION ALL
        SELECT ' of', r.rngsubtype, -1 FROM pg_range r WHERE t.typtype = 'r' AND r.rngtypid = t.oid
        UNION ALL
        SELECT ' of', r.rngtypid, -1 FROM pg_range r WHERE t.typtype = 'm' AND r.rngmultitypid = t.oid
    ) AS inner_type(step, oid, typmod)
), deep AS (
    SELECT n.asked,
           string_agg(n.path || ': ' || CASE
               WHEN t.typtype = 'e' THEN (SELECT format('%%I (%%s)', t.typname, string_agg(quote_literal(l.enumlabel), ', ' ORDER BY l.enumsortorder))
                                          FROM pg_enum l WHERE l.enumtypid = t.oid)
               WHEN t.typnamespace = 'pg_catalog'::regnamespace THEN format_type(n.oid, n.typmod)
               ELSE substr(format_type(n.oid, n.typmod), length(quote_ident(s.nspname)) + 2) END, '; ' ORDER BY n.path) AS structure,
           string_agg(n.path || ': ' || COALESCE('extension ' || quote_ident(e.extname), 'schema ' || quote_ident(s.nspname)), '; ' ORDER BY n.path)
               FILTER (WHERE t.oid >= 16384 AND t.typcategory <> 'A' AND (t.typtype = 'b' OR e.oid IS NOT NULL)) AS origins
    FROM node n JOIN pg_type t ON t.oid = n.oid JOIN pg_namespace s ON s.oid = t.typnamespace
    LEFT JOIN pg_depend d ON d.classid = 'pg_type'::regclass AND d.objid = t.oid AND d.deptype = 'e'
                         AND d.refclassid = 'pg_extension'::regclass
    LEFT JOIN pg_extension e ON e.oid = d.refobjid
    GROUP BY n.asked
)
SELECT asked AS oid,
       bool_or(typname IN ('money', '_money')) AS is_money,
       bool_and(oid < 16384 AND typsend <> 0 AND typreceive <> 0 AND typtype = 'b'
                AND typname !~ '^_?reg' AND typname NOT IN ('money', '_money')) AS binary_safe,
       bool_and(has_type_privilege(oid, 'USAGE') AND has_schema_privilege(typnamespace, 'USAGE')) AS may_use,
       COALESCE(string_agg(made_of, ' '), '') AS inner_shape,
       COALESCE((SELECT structure FROM deep WHERE deep.asked = shaped.asked), '') AS structure,
       COALESCE((SELECT origins FROM deep WHERE deep.asked = shaped.asked), '') AS origins,
       COALESCE(max(CASE WHEN typnamespace <> 'pg_catalog'::regnamespace THEN typnamespace::regnamespace::text END)
                FILTER (WHERE oid = asked), '') AS type_schema
FROM shaped GROUP BY asked

-- name: type_names
SELECT oid, format_type(oid, typmod) AS type
FROM unnest(%(oids)s::oid[], %(typmods)s::int[]) WITH ORDINALITY AS asked(oid, typmod, position)
ORDER BY position

-- name: tables
-- What a misspelled name may have meant.
SELECT n.nspname::text AS schema, c.relname::text AS name
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname NOT LIKE 'pg\_%%' AND n.nspname <> 'information_schema'
ORDER BY 1, 2 LIMIT 20000

-- name: sessions
SELECT pid FROM pg_stat_activity
WHERE application_name = %(application)s AND pid <> ALL (%(spared)s::int[])

-- name: end_sessions
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE application_name = %(application)s AND pid <> ALL (%(spared)s::int[])

-- name: ever_locked
-- Which of these tables a copy has ever locked, by the names of their locks.
SELECT l.name FROM safecopy.lock l WHERE l.name = ANY (%(names)s::text[]) ORDER BY 1

-- name: size
SELECT pg_relation_size(%(oid)s::oid) AS bytes

-- name: working
-- Whether a statement of this run is being worked on: neither waiting for a lock, nor for its client.
SELECT EXISTS (SELECT FROM pg_stat_activity
               WHERE application_name = %(application)s AND pid <> pg_backend_pid() AND state = 'active'
                 AND COALESCE(wait_event_type, '') NOT IN ('Lock', 'Client'))

-- name: expressions
-- What is computed where rows of a table are stored, or a table like it is made.
SELECT pg_get_expr(e.tree, %(oid)s) AS expression
FROM (SELECT i.indexprs FROM pg_index i WHERE i.indrelid = %(oid)s
      UNION ALL SELECT i.indpred FROM pg_index i WHERE i.indrelid = %(oid)s
      UNION ALL SELECT x.stxexprs FROM pg_statistic_ext x WHERE x.stxrelid = %(oid)s
      UNION ALL SELECT k.conbin FROM pg_constraint k WHERE k.conrelid = %(oid)s AND k.contype = 'c'
      UNION ALL SELECT f.adbin FROM pg_attrdef f JOIN pg_attribute a ON a.attrelid = f.adrelid AND a.attnum = f.adnum
                WHERE f.adrelid = %(oid)s AND a.attgenerated <> '') AS e(tree)
WHERE e.tree IS NOT NULL

-- name: large_objects
SELECT EXISTS (SELECT FROM pg_largeobject_metadata)

-- name: export_snapshot
SELECT pg_export_snapshot()

-- name: leftovers
-- Staging tables of runs that are gone: no session of theirs is connected any more, or `gone` names the first
-- eight digits of their attempt.
SELECT c.relname::text FROM pg_class c
WHERE c.relnamespace = to_regnamespace('safecopy') AND c.relkind = 'r'
  AND c.relname ~ '__safecopy_[0-9]+_[0-9a-f]{8}$'
  AND pg_has_role(c.relowner, 'USAGE')
  AND (right(c.relname::text, 8) = ANY (%(gone)s::text[])
       OR NOT EXISTS (SELECT FROM pg_stat_activity a
                      WHERE left(a.application_name, 17) = 'safecopy:' || right(c.relname::text, 8)))

-- name: vacuumed
-- Whether a session holds the lock of a VACUUM on the table or a partition of it. Who that is not every role may see.
SELECT EXISTS (SELECT FROM pg_locks l
               WHERE l.locktype = 'relation' AND l.granted AND l.mode = 'ShareUpdateExclusiveLock'
                 AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
                 AND l.relation IN (SELECT relid FROM pg_partition_tree(%(oid)s) UNION ALL SELECT %(oid)s::oid))

-- name: outlast_deadlock_timeout
-- An autovacuum gives way to a session that has waited for its table for deadlock_timeout.
SELECT set_config('lock_timeout', (setting::int + 500)::text || 'ms', true)
FROM pg_settings WHERE name = 'deadlock_timeout'
