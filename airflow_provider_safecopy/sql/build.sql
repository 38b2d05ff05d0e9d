-- The statements that build a table like the target, and put it into its place; made here by the server, executed as
-- they come. Every query runs under search_path = pg_catalog, so that whatever is the user's is spelled with its schema.
-- All but `obstacles` are parts of one: `given`, then the others joined by UNION ALL. A part answers with
--   phase   create: an empty table · build: what is added once it holds the rows · refer: in the publish, before the
--           target is locked: foreign keys to other tables · hold: under the lock, before the old table makes room ·
--           rename: the exchange · finish: once the new table has its owner · drop: the old one, last
--   rank, ord   the order within the phase
--   kind, name  what the statement is about, by its final name
--   space   the tablespace that an index is to be made in
-- A statement is NULL where the catalog's text is not what we can take apart. Columns of the catalog that not every
-- major has are taken out of to_jsonb().

-- name: given
WITH RECURSIVE given AS (
    SELECT t.oid, t.oid::regclass::text AS target, format('safecopy.%%I', s.name) AS staging,
           'safecopy_' || md5(s.name) || '_' AS stem, n.nspname, format('%%I.', n.nspname) AS home, c.relname, c.relkind,
           c.relpersistence, c.relam, c.reltablespace, c.reltoastrelid, c.reloptions, c.relreplident,
           (SELECT spcname FROM pg_tablespace p JOIN pg_database d ON d.dattablespace = p.oid
            WHERE d.datname = current_database()) AS usual_space
    FROM (SELECT %(oid)s::oid AS oid) AS t
    CROSS JOIN (SELECT %(staging)s::text AS name) AS s
    JOIN pg_class c ON c.oid = t.oid JOIN pg_namespace n ON n.oid = c.relnamespace
), attribute AS (
    SELECT a.*, format('%%I', a.attname) AS name, to_jsonb(a) AS whole
    FROM given g JOIN pg_attribute a ON a.attrelid = g.oid AND a.attnum > 0 AND NOT a.attisdropped
), drawn AS (
    -- Sequences that live and die with a column: its identity's (i), or one it owns (a).
    SELECT d.deptype, d.refobjsubid AS attnum, s.oid, s.oid::regclass::text AS name, s.relname, s.relacl, s.relowner,
           s.relpersistence AS persistence, q.*
    FROM given g JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = g.oid AND d.refobjsubid > 0
                                 AND d.classid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
    JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S' JOIN pg_sequence q ON q.seqrelid = s.oid
), restriction AS (
    SELECT k.*, format('%%I', k.conname) AS name, pg_get_constraintdef(k.oid) AS definition,
           COALESCE((to_jsonb(k) ->> 'conperiod')::bool, false) AS temporal
    FROM given g JOIN pg_constraint k ON k.conrelid = g.oid AND k.contype IN ('c', 'n', 'p', 'u', 'x', 'f') AND k.conparentid = 0
), indexed AS (
    SELECT i.indexrelid, i.indisunique, i.indisclustered, i.indisreplident, format('%%I', c.relname) AS name, c.reloptions,
           g.stem || i.indexrelid AS temporary, COALESCE(p.spcname, g.usual_space) AS space, k.oid AS constraint_oid,
           k.contype, k.contype = 'x' OR k.temporal AS at_once,
           format('CREATE %%sINDEX %%I ON %%s USING ', CASE WHEN i.indisunique THEN 'UNIQUE ' ELSE '' END, c.relname, g.target) AS head,
           pg_get_indexdef(i.indexrelid) AS definition
    FROM given g JOIN pg_index i ON i.indrelid = g.oid JOIN pg_class c ON c.oid = i.indexrelid
    LEFT JOIN pg_tablespace p ON p.oid = c.reltablespace
    LEFT JOIN restriction k ON k.conindid = i.indexrelid AND k.contype IN ('p', 'u', 'x')
), extended AS (
    SELECT x.oid, x.stxname, x.stxkind, x.stxowner, x.stxnamespace, g.stem || x.oid AS temporary, (to_jsonb(x) ->> 'stxstattarget')::int AS target,
           format('%%I.%%I', n.nspname, x.stxname) AS name, n.nspname
    FROM given g JOIN pg_statistic_ext x ON x.stxrelid = g.oid JOIN pg_namespace n ON n.oid = x.stxnamespace
), referring AS (
    -- Foreign keys of both tables, and what the server makes of one that refers to a partitioned table: one to each partition.
    SELECT k.oid, k.conrelid, k.confrelid, k.conname, k.conname AS root, false AS made
    FROM given g JOIN pg_constraint k ON k.conrelid IN (g.oid, to_regclass(g.staging)) AND k.contype = 'f' AND k.conparentid = 0
    UNION ALL
    SELECT k.oid, k.conrelid, k.confrelid, k.conname, r.root, true
    FROM referring r JOIN pg_constraint k ON k.conparentid = r.oid AND k.conrelid = r.conrelid
)

-- name: table
-- Without autovacuum until it is published: it would only take locks on what is not read.
SELECT 'create' AS phase, 0 AS rank, 0::bigint AS ord, 'table' AS kind, g.target AS name,
       format('CREATE %%sTABLE %%s (%%s) USING %%I WITH (%%s) TABLESPACE %%I', CASE g.relpersistence WHEN 'u' THEN 'UNLOGGED ' ELSE '' END,
              g.staging, columns.list, m.amname, options.list, COALESCE(p.spcname, g.usual_space)) AS statement,
       NULL::name AS space
FROM given g JOIN pg_am m ON m.oid = g.relam LEFT JOIN pg_tablespace p ON p.oid = g.reltablespace
CROSS JOIN LATERAL (
    SELECT string_agg(a.name || ' ' || format_type(a.atttypid, a.atttypmod)
                      || CASE a.attcompression WHEN 'p' THEN ' COMPRESSION pglz' WHEN 'l' THEN ' COMPRESSION lz4' ELSE '' END
                      || COALESCE(' COLLATE ' || quote_ident(cn.nspname) || '.' || quote_ident(co.collname), '')
                      || CASE WHEN a.attgenerated = 's' THEN ' GENERATED ALWAYS AS (' || pg_get_expr(f.adbin, f.adrelid) || ') STORED'
                              WHEN a.attgenerated = 'v' THEN ' GENERATED ALWAYS AS (' || pg_get_expr(f.adbin, f.adrelid) || ') VIRTUAL'
                              WHEN f.oid IS NOT NULL THEN ' DEFAULT ' || pg_get_expr(f.adbin, f.adrelid)
                              -- Until the table is built an identity is a default that draws from the target's sequence.
                              WHEN a.attidentity <> '' AND a.attname::text <> ALL (%(copied)s::text[])
                              THEN format(' DEFAULT nextval(%%L::regclass)', (SELECT s.name FROM drawn s WHERE s.deptype = 'i' AND s.attnum = a.attnum))
                              ELSE '' END
                      || CASE WHEN k.convalidated THEN ' CONSTRAINT ' || k.name || ' NOT NULL' || CASE WHEN k.connoinherit THEN ' NO INHERIT' ELSE '' END
                              WHEN a.attnotnull AND k.oid IS NULL THEN ' NOT NULL' ELSE '' END,
                      ', ' ORDER BY a.attnum) AS list
    FROM attribute a JOIN pg_type t ON t.oid = a.atttypid
    LEFT JOIN pg_collation co ON co.oid = a.attcollation AND a.attcollation <> t.typcollation
    LEFT JOIN pg_namespace cn ON cn.oid = co.collnamespace
    LEFT JOIN pg_attrdef f ON f.adrelid = a.attrelid AND f.adnum = a.attnum
    LEFT JOIN restriction k ON k.contype = 'n' AND k.conkey = ARRAY[a.attnum]
) AS columns
CROSS JOIN LATERAL (
    SELECT string_agg(format('%%s%%I = %%L', kept.part, kept.key, kept.value), ', ' ORDER BY kept.part, kept.key) AS list
    FROM (SELECT '', split_part(option, '=', 1), substr(option, strpos(option, '=') + 1) FROM unnest(g.reloptions) AS option
          WHERE split_part(option, '=', 1) <> 'autovacuum_enabled'
          UNION ALL
          SELECT 'toast.', split_part(option, '=', 1), substr(option, strpos(option, '=') + 1)
          FROM pg_class t CROSS JOIN unnest(t.reloptions) AS option
          WHERE t.oid = g.reltoastrelid AND split_part(option, '=', 1) <> 'autovacuum_enabled'
          UNION ALL
          SELECT '', 'autovacuum_enabled', 'off'
          UNION ALL
          SELECT 'toast.', 'autovacuum_enabled', 'off' FROM pg_class t WHERE t.oid = g.reltoastrelid AND t.reloptions <> '{}'
         ) AS kept(part, key, value)
) AS options

-- name: storage
SELECT 'create', 1, a.attnum, 'column', a.name,
       format('ALTER TABLE %%s ALTER COLUMN %%s SET STORAGE %%s', g.staging, a.name,
              CASE a.attstorage WHEN 'p' THEN 'PLAIN' WHEN 'e' THEN 'EXTERNAL' WHEN 'x' THEN 'EXTENDED' WHEN 'm' THEN 'MAIN' END), NULL
FROM given g CROSS JOIN attribute a JOIN pg_type t ON t.oid = a.atttypid WHERE a.attstorage <> t.typstorage

-- name: identity
-- A sequence of its own: an identity's cannot be handed on. It takes the value and the name of the old one when that is held.
SELECT 'build', 10 + step.number, s.oid::bigint, 'identity', s.name, step.statement, NULL
FROM given g CROSS JOIN drawn s JOIN attribute a USING (attnum)
CROSS JOIN LATERAL (VALUES
    (0, CASE WHEN a.attname::text <> ALL (%(copied)s::text[]) THEN format('ALTER TABLE %%s ALTER COLUMN %%s DROP DEFAULT', g.staging, a.name) END),
    (1, format('ALTER TABLE %%s ALTER COLUMN %%s ADD GENERATED %%s AS IDENTITY (SEQUENCE NAME safecopy.%%I)', g.staging, a.name,
               CASE a.attidentity WHEN 'a' THEN 'ALWAYS' ELSE 'BY DEFAULT' END, g.stem || s.oid)),
    (2, format('ALTER SEQUENCE safecopy.%%I AS %%s INCREMENT BY %%s MINVALUE %%s MAXVALUE %%s START WITH %%s RESTART CACHE %%s %%sCYCLE', g.stem || s.oid,
               s.seqtypid::regtype, s.seqincrement, s.seqmin, s.seqmax, s.seqstart, s.seqcache, CASE WHEN s.seqcycle THEN '' ELSE 'NO ' END)),
    -- From 15 on it may be logged where its table is not, and the other way round.
    (3, CASE WHEN s.persistence <> g.relpersistence AND current_setting('server_version_num')::int >= 150000
             THEN format('ALTER SEQUENCE safecopy.%%I SET %%sLOGGED', g.stem || s.oid, CASE s.persistence WHEN 'u' THEN 'UN' ELSE '' END) END)
) AS step(number, statement)
WHERE s.deptype = 'i' AND step.statement IS NOT NULL

-- name: indexes
SELECT 'build', 20, i.indexrelid::bigint, 'index', i.name,
       CASE WHEN i.at_once THEN format('ALTER TABLE %%s ADD CONSTRAINT %%I ', g.staging, i.temporary) || k.definition
            WHEN starts_with(i.definition, i.head)
            THEN format('CREATE %%sINDEX %%I ON %%s USING ', CASE WHEN i.indisunique THEN 'UNIQUE ' ELSE '' END, i.temporary, g.staging)
                 || substr(i.definition, length(i.head) + 1) END, i.space
FROM given g CROSS JOIN indexed i LEFT JOIN restriction k ON k.oid = i.constraint_oid

-- name: index_options
-- Those a constraint's definition does not show.
SELECT 'build', 21, i.indexrelid::bigint, 'index', i.name,
       format('ALTER INDEX safecopy.%%I SET (%%s)', i.temporary,
              (SELECT string_agg(format('%%I = %%L', split_part(option, '=', 1), substr(option, strpos(option, '=') + 1)), ', ' ORDER BY option)
               FROM unnest(i.reloptions) AS option)), NULL
FROM indexed i WHERE i.at_once AND i.contype <> 'x' AND i.reloptions <> '{}'

-- name: keys
SELECT 'build', 30, i.indexrelid::bigint, 'constraint', i.name,
       format('ALTER TABLE %%s ADD CONSTRAINT %%I %%s USING INDEX %%I%%s%%s', g.staging, i.temporary,
              CASE k.contype WHEN 'p' THEN 'PRIMARY KEY' ELSE 'UNIQUE' END, i.temporary,
              CASE WHEN k.condeferrable THEN ' DEFERRABLE' ELSE '' END, CASE WHEN k.condeferred THEN ' INITIALLY DEFERRED' ELSE '' END), NULL
FROM given g CROSS JOIN indexed i JOIN restriction k ON k.oid = i.constraint_oid WHERE NOT i.at_once

-- name: index_targets
SELECT 'build', 40, i.indexrelid::bigint * 64 + a.attnum, 'index', i.name,
       format('ALTER INDEX safecopy.%%I ALTER COLUMN %%s SET STATISTICS %%s', i.temporary, a.attnum, to_jsonb(a) ->> 'attstattarget'), NULL
FROM indexed i JOIN pg_attribute a ON a.attrelid = i.indexrelid WHERE (to_jsonb(a) ->> 'attstattarget')::int >= 0

-- name: checks
-- In one statement: the rows are read once for all of them.
SELECT 'build', 50, 0, 'constraint', string_agg(k.name, ', ' ORDER BY k.conname),
       format('ALTER TABLE %%s ', g.staging) || string_agg('ADD CONSTRAINT ' || k.name || ' ' || k.definition, ', ' ORDER BY k.conname), NULL
FROM given g CROSS JOIN restriction k WHERE k.contype = 'c' OR k.contype = 'n' AND NOT k.convalidated GROUP BY g.staging

-- name: tried
-- A constraint that is NOT VALID forbids rows that are new, as all of staging's are: it is made valid first, and then again as
-- it was.
SELECT 'build', 48, 0, 'constraint', string_agg(k.name, ', ' ORDER BY k.conname),
       format('ALTER TABLE %%s ', g.staging) || string_agg(format('ADD CONSTRAINT %%s %%s', k.name, left(k.definition, -10)), ', ' ORDER BY k.conname), NULL
FROM given g CROSS JOIN restriction k WHERE k.contype IN ('c', 'n') AND right(k.definition, 10) = ' NOT VALID' GROUP BY g.staging
UNION ALL
SELECT 'build', 49, 0, 'constraint', string_agg(k.name, ', ' ORDER BY k.conname),
       format('ALTER TABLE %%s ', g.staging) || string_agg('DROP CONSTRAINT ' || k.name, ', ' ORDER BY k.conname), NULL
FROM given g CROSS JOIN restriction k WHERE k.contype IN ('c', 'n') AND right(k.definition, 10) = ' NOT VALID' GROUP BY g.staging

-- name: foreign_keys
-- A foreign key acts from the moment it exists: staging would keep others from deleting referenced rows, and ON DELETE
-- and ON UPDATE would change its own rows after they were proven. So foreign keys to other tables are made in
-- the publishing transaction itself. A key to its own table refers to staging, where no other session writes,
-- and still refers to its own table after the rename.
SELECT CASE WHEN k.confrelid = g.oid THEN 'build' ELSE 'refer' END, 60, k.oid::bigint, 'foreign key', k.name,
       format('ALTER TABLE %%s ADD CONSTRAINT %%s ', g.staging, k.name)
       || CASE WHEN k.confrelid <> g.oid THEN k.definition
               WHEN starts_with(k.definition, own.head || g.target || '(')
               THEN own.head || g.staging || substr(k.definition, length(own.head || g.target) + 1) END, NULL
FROM given g CROSS JOIN restriction k
CROSS JOIN LATERAL (
    SELECT format('FOREIGN KEY (%%s) REFERENCES ', string_agg(
               CASE WHEN k.temporal AND key.position = cardinality(k.conkey) THEN 'PERIOD ' ELSE '' END || a.name, ', ' ORDER BY key.position)) AS head
    FROM unnest(k.conkey) WITH ORDINALITY AS key(attnum, position) JOIN attribute a USING (attnum)
) AS own
WHERE k.contype = 'f'

-- name: statistics
SELECT 'build', 70 + step.number, x.oid::bigint, 'statistics', x.name, step.statement, NULL
FROM given g CROSS JOIN extended x
CROSS JOIN LATERAL (SELECT pg_get_statisticsobjdef_columns(x.oid) AS list, x.stxkind = '{e}' AS single) AS columns
CROSS JOIN LATERAL (VALUES
    (0, format('CREATE STATISTICS safecopy.%%I %%s ON %%s FROM %%s', x.temporary,
               CASE WHEN columns.single THEN '' ELSE
                    (SELECT '(' || string_agg(CASE kind WHEN 'd' THEN 'ndistinct' WHEN 'f' THEN 'dependencies' WHEN 'm' THEN 'mcv' END, ', ')
                            || ')' FROM unnest(x.stxkind) AS kind WHERE kind <> 'e') END, columns.list, g.staging)),
    (1, CASE WHEN x.target >= 0 THEN format('ALTER STATISTICS safecopy.%%I SET STATISTICS %%s', x.temporary, x.target) END)
) AS step(number, statement)
WHERE step.number = 0 OR step.statement IS NOT NULL

-- name: targets
SELECT 'build', 80, a.attnum, 'column', a.name, format('ALTER TABLE %%s %%s', g.staging, concat_ws(', ',
       CASE WHEN (a.whole ->> 'attstattarget')::int >= 0 THEN format('ALTER COLUMN %%s SET STATISTICS %%s', a.name, a.whole ->> 'attstattarget') END,
       CASE WHEN a.attoptions <> '{}' THEN format('ALTER COLUMN %%s SET (%%s)', a.name,
            (SELECT string_agg(format('%%I = %%L', split_part(option, '=', 1), substr(option, strpos(option, '=') + 1)), ', ' ORDER BY option)
             FROM unnest(a.attoptions) AS option)) END)), NULL
FROM given g CROSS JOIN attribute a WHERE (a.whole ->> 'attstattarget')::int >= 0 OR a.attoptions <> '{}'

-- name: analyze
SELECT 'build', 90, 0, 'analysis', g.target, 'ANALYZE ' || g.staging, NULL FROM given g

-- name: released
-- Dropping a foreign key locks the table it refers to; so it comes first, while there is still time to give up.
SELECT 'hold', 0, k.oid::bigint, 'foreign key', k.name, format('ALTER TABLE %%s DROP CONSTRAINT %%s', g.target, k.name), NULL
FROM given g CROSS JOIN restriction k WHERE k.contype = 'f'

-- name: held
-- An ALTER SEQUENCE that changes nothing keeps nextval waiting, so that no value is drawn behind our back.
SELECT 'hold', 10 + step.number, s.oid::bigint, 'sequence', s.name, step.statement, NULL
FROM given g CROSS JOIN drawn s
CROSS JOIN LATERAL (VALUES
    (0, CASE s.deptype WHEN 'a' THEN format('ALTER SEQUENCE %%s OWNED BY NONE', s.name)
                       ELSE format('ALTER SEQUENCE %%s INCREMENT BY %%s', s.name, s.seqincrement) END),
    (1, CASE s.deptype WHEN 'i' THEN format('SELECT setval(%%L, last_value, is_called) FROM %%s', format('safecopy.%%I', g.stem || s.oid), s.name) END)
) AS step(number, statement)
WHERE step.statement IS NOT NULL

-- name: left
-- The old table makes room: it stays in its schema, where nothing of ours is that it could clash with, and out of sight.
SELECT 'rename', 20, part.oid::bigint, part.kind, part.name, part.statement, NULL
FROM given g CROSS JOIN LATERAL (
    SELECT g.oid, 'table', g.target, format('ALTER TABLE %%s RENAME TO %%I', g.target, g.stem || 'old')
    UNION ALL
    SELECT i.indexrelid, 'index', i.name, format('ALTER INDEX %%s%%s RENAME TO %%I', g.home, i.name, g.stem || 'old_' || i.indexrelid) FROM indexed i
    UNION ALL
    SELECT s.oid, 'sequence', s.name, format('ALTER SEQUENCE %%s RENAME TO %%I', s.name, g.stem || 'old_' || s.oid) FROM drawn s WHERE s.deptype = 'i'
    UNION ALL
    SELECT x.oid, 'statistics', x.name, 'DROP STATISTICS ' || x.name FROM extended x
) AS part(oid, kind, name, statement)

-- name: entered
SELECT 'rename', 30 + step.number, 0, 'table', g.target, step.statement, NULL
FROM given g CROSS JOIN LATERAL (VALUES
    (0, format('ALTER TABLE %%s SET SCHEMA %%I', g.staging, g.nspname)),
    (1, format('ALTER TABLE %%s%%I RENAME TO %%I', g.home, %(staging)s::text, g.relname)),
    (2, format('COMMENT ON TABLE %%s IS NULL', g.target)),
    (3, format('ALTER TABLE %%s ', g.target) || COALESCE(
           (SELECT format('SET (autovacuum_enabled = %%L)', split_part(option, '=', 2)) FROM unnest(g.reloptions) AS option
            WHERE split_part(option, '=', 1) = 'autovacuum_enabled'), 'RESET (autovacuum_enabled)')),
    (4, (SELECT format('ALTER TABLE %%s ', g.target) || COALESCE(
                  (SELECT format('SET (toast.autovacuum_enabled = %%L)', split_part(option, '=', 2)) FROM unnest(t.reloptions) AS option
                   WHERE split_part(option, '=', 1) = 'autovacuum_enabled'), 'RESET (toast.autovacuum_enabled)')
         FROM pg_class t WHERE t.oid = g.reltoastrelid AND t.reloptions <> '{}'))
) AS step(number, statement)
WHERE step.statement IS NOT NULL

-- name: renamed
SELECT 'rename', 40, part.oid::bigint, part.kind, part.name, part.statement, NULL
FROM given g CROSS JOIN LATERAL (
    SELECT i.indexrelid, 'index', i.name, CASE WHEN i.constraint_oid IS NULL THEN format('ALTER INDEX %%s%%I RENAME TO ', g.home, i.temporary)
           ELSE format('ALTER TABLE %%s RENAME CONSTRAINT %%I TO ', g.target, i.temporary) END || i.name
    FROM indexed i
    UNION ALL
    SELECT s.oid, 'sequence', s.name, format('ALTER SEQUENCE %%s%%I RENAME TO %%I', g.home, g.stem || s.oid, s.relname)
    FROM drawn s WHERE s.deptype = 'i'
    UNION ALL
    SELECT x.oid, 'statistics', x.name, format('ALTER STATISTICS safecopy.%%I SET SCHEMA %%I', x.temporary, x.nspname) FROM extended x
) AS part(oid, kind, name, statement)

-- name: renamed_statistics
SELECT 'rename', 41, x.oid::bigint, 'statistics', x.name, format('ALTER STATISTICS %%I.%%I RENAME TO %%I', x.nspname, x.temporary, x.stxname), NULL
FROM extended x

-- name: renamed_foreign_keys
-- The server has named them, and names them in another way when it makes them in another order.
SELECT 'rename', 42 + step.number, old.oid::bigint, 'constraint', format('%%I', old.conname), step.statement, NULL
FROM given g JOIN referring old ON old.conrelid = g.oid AND old.made
JOIN referring new ON new.conrelid <> g.oid AND new.made AND (new.root, new.confrelid) = (old.root, old.confrelid) AND new.conname <> old.conname
CROSS JOIN LATERAL (VALUES
    (0, format('ALTER TABLE %%s RENAME CONSTRAINT %%I TO %%I', g.target, new.conname, g.stem || old.oid)),
    (1, format('ALTER TABLE %%s RENAME CONSTRAINT %%I TO %%I', g.target, g.stem || old.oid, old.conname))
) AS step(number, statement)

-- name: owned
SELECT 'finish', 50, part.oid::bigint, part.kind, part.name, part.statement, NULL
FROM given g CROSS JOIN LATERAL (
    SELECT s.oid, 'sequence', s.name, format('ALTER SEQUENCE %%s OWNED BY %%s.%%s', s.name, g.target, a.name)
    FROM drawn s JOIN attribute a USING (attnum) WHERE s.deptype = 'a'
    UNION ALL
    SELECT x.oid, 'statistics', x.name, format('ALTER STATISTICS %%s OWNER TO %%I', x.name, pg_get_userbyid(x.stxowner))
    FROM extended x
) AS part(oid, kind, name, statement)

-- name: commented
SELECT 'finish', 60, part.oid::bigint, part.kind, part.name, format('COMMENT ON %%s %%s IS %%L', part.kind, part.name, part.told), NULL
FROM (
    SELECT x.oid, 'statistics', x.name, obj_description(x.oid, 'pg_statistic_ext') FROM extended x
    UNION ALL
    SELECT s.oid, 'sequence', s.name, obj_description(s.oid, 'pg_class') FROM drawn s WHERE s.deptype = 'i'
) AS part(oid, kind, name, told)
WHERE part.told IS NOT NULL

-- name: granted
-- On an identity's sequence; one that is only owned stays as it is. What default privileges have added goes first.
SELECT 'finish', 70 + step.number, step.ord, 'sequence', step.name, step.statement, NULL
FROM given g CROSS JOIN LATERAL (
    SELECT 0, s.oid::bigint, s.name, format('REVOKE ALL ON SEQUENCE %%s FROM %%s', s.name, string_agg(DISTINCT who.spelled, ', '))
    FROM drawn s LEFT JOIN pg_class made ON made.oid = to_regclass(format('safecopy.%%I', g.stem || s.oid))
    CROSS JOIN LATERAL (
        SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE format('%%I', pg_get_userbyid(a.grantee)) END AS spelled
        FROM aclexplode(made.relacl) a WHERE a.grantee <> made.relowner
        UNION ALL
        SELECT format('%%I', pg_get_userbyid(s.relowner)) WHERE s.relacl IS NOT NULL
    ) AS who
    WHERE s.deptype = 'i' GROUP BY s.oid, s.name
    UNION ALL
    SELECT 1, s.oid::bigint, s.name,
           format('GRANT %%s ON SEQUENCE %%s TO %%s%%s', string_agg(a.privilege_type, ', ' ORDER BY a.privilege_type), s.name,
                  CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE format('%%I', pg_get_userbyid(a.grantee)) END,
                  CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
    FROM drawn s CROSS JOIN LATERAL aclexplode(s.relacl) a WHERE s.deptype = 'i'
    GROUP BY s.oid, s.name, a.grantee, a.is_grantable
) AS step(number, ord, name, statement)

-- name: pinned
-- GRANT on a column locks no table. It changes the column's catalog row, as this statement does: from here on a GRANT
-- waits for us and then fails, instead of being lost with the old table.
SELECT 'drop', 80, 0, 'table', g.target,
       format('ALTER TABLE %%s%%I ', g.home, g.stem || 'old') || string_agg(format('ALTER COLUMN %%s SET (n_distinct = 0)', a.name), ', ' ORDER BY a.attnum), NULL
FROM given g CROSS JOIN attribute a GROUP BY g.home, g.stem, g.target

-- name: dropped
SELECT 'drop', 90, 0, 'table', g.target, format('DROP TABLE %%s%%I', g.home, g.stem || 'old'), NULL FROM given g

-- name: noted
-- What is run on staging once it is there: a note of what it was made as, so that it is known later whether the target
-- is still like it; and what default privileges have granted on it is taken back.
SELECT format('COMMENT ON TABLE safecopy.%%I IS %%L', %(staging)s::text, md5(%(made)s::text)) AS statement
UNION ALL
SELECT format('REVOKE ALL ON TABLE safecopy.%%I FROM %%s', c.relname,
              string_agg(DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE format('%%I', pg_get_userbyid(a.grantee)) END, ', '))
FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) a
WHERE c.oid = to_regclass(format('safecopy.%%I', %(staging)s::text)) AND a.grantee <> c.relowner
GROUP BY c.relname

-- name: numbered
SELECT to_regclass(format('%%I.%%I', %(schema)s::text, %(name)s::text))::oid AS oid

-- name: stamped
SELECT obj_description(to_regclass(format('safecopy.%%I', %(staging)s::text)), 'pg_class') = md5(%(made)s::text)

-- name: with_memory
-- An index is sorted in memory, and by several workers where the server has them; a default of 64 MB makes it merge.
SELECT set_config('maintenance_work_mem', GREATEST(setting::bigint, 262144)::text, true)
FROM pg_settings WHERE name = 'maintenance_work_mem'

-- name: in_space
SELECT set_config('default_tablespace', %(space)s, true)

-- name: obstacles
-- What keeps a table from being built anew: a word for it (`why`), and the names to it. Asked of %(oid)s.
SELECT why, string_agg(DISTINCT told, ', ' ORDER BY told) AS told
FROM pg_class c
CROSS JOIN LATERAL (
    SELECT 'invalid index', i.indexrelid::regclass::text FROM pg_index i
    WHERE i.indrelid = c.oid AND NOT (i.indisvalid AND i.indisready AND i.indislive)
    UNION ALL
    SELECT 'whole row', w.name FROM (
        SELECT k.conname::text, k.conbin::text FROM pg_constraint k WHERE k.conrelid = c.oid
        UNION ALL
        SELECT ic.relname::text, concat(i.indexprs::text, i.indpred::text) FROM pg_index i JOIN pg_class ic ON ic.oid = i.indexrelid
        WHERE i.indrelid = c.oid
        UNION ALL
        SELECT x.stxname::text, x.stxexprs::text FROM pg_statistic_ext x WHERE x.stxrelid = c.oid
    ) AS w(name, expression) WHERE strpos(w.expression, ':varattno 0 ') > 0
    UNION ALL
    SELECT 'right', format('CREATE on tablespace %%I', p.spcname) FROM pg_tablespace p
    WHERE p.oid IN (SELECT o.reltablespace FROM pg_class o WHERE o.oid = c.oid OR o.oid IN (SELECT indexrelid FROM pg_index WHERE indrelid = c.oid))
      AND NOT has_tablespace_privilege(p.oid, 'CREATE')
    UNION ALL
    SELECT 'right', 'REFERENCES on ' || k.confrelid::regclass FROM pg_constraint k JOIN pg_class o ON o.oid = k.confrelid
    WHERE k.conrelid = c.oid AND k.contype = 'f' AND k.conparentid = 0 AND k.confrelid <> c.oid
      AND NOT (has_schema_privilege(o.relnamespace, 'USAGE')
               AND (has_table_privilege(k.confrelid, 'REFERENCES')
                    OR (SELECT bool_and(has_column_privilege(k.confrelid, key, 'REFERENCES')) FROM unnest(k.confkey) AS key)))
    UNION ALL
    SELECT 'right', format('the rights of %%I, who owns the statistics %%I', pg_get_userbyid(x.stxowner), x.stxname)
    FROM pg_statistic_ext x WHERE x.stxrelid = c.oid AND NOT pg_has_role(x.stxowner, 'USAGE')
    UNION ALL
    SELECT 'right', 'CREATE on schema ' || x.stxnamespace::regnamespace FROM pg_statistic_ext x
    WHERE x.stxrelid = c.oid AND x.stxnamespace <> c.relnamespace AND NOT has_schema_privilege(x.stxnamespace, 'CREATE')
    UNION ALL
    -- An identity's sequence is dropped with the old table; any other object that uses it would prevent that. Staging uses it
    -- too, until it has sequences of its own.
    SELECT 'sequence used', format('%%s, by %%s', s.oid::regclass, pg_describe_object(u.classid, u.objid, u.objsubid))
    FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
    JOIN pg_depend u ON u.refclassid = 'pg_class'::regclass AND u.refobjid = s.oid AND u.deptype = 'n'
    WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid AND d.classid = 'pg_class'::regclass AND d.deptype = 'i'
      AND NOT EXISTS (SELECT FROM pg_attrdef f JOIN pg_class t ON t.oid = f.adrelid JOIN pg_namespace n ON n.oid = t.relnamespace
                      WHERE u.classid = 'pg_attrdef'::regclass AND f.oid = u.objid AND n.nspname = 'safecopy')
    UNION ALL
    SELECT 'granted by another', s.oid::regclass::text FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
    CROSS JOIN LATERAL aclexplode(s.relacl) a
    WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid AND d.classid = 'pg_class'::regclass AND d.deptype = 'i'
      AND a.grantor <> s.relowner
) AS obstacle(why, told)
WHERE c.oid = %(oid)s
GROUP BY why ORDER BY why
