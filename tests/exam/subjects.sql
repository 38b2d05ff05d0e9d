-- name: subjects
-- Every relation of the users', with what its shape is made of: not the numbers and names of things, but their sorts.
SELECT c.oid, n.nspname::text AS schema, c.relname::text AS name, c.relkind::text AS kind,
       EXISTS (SELECT FROM pg_inherits WHERE inhparent = c.oid) AS has_children,
       md5(jsonb_build_array(
           c.relkind, c.relpersistence, c.relam::regclass, c.relrowsecurity, c.relforcerowsecurity, c.relreplident,
           c.relispartition, c.reloftype <> 0, c.relowner = 10, c.relacl IS NULL, c.reltablespace <> 0,
           ARRAY(SELECT split_part(o, '=', 1) FROM unnest(c.reloptions) AS o ORDER BY 1),
           (SELECT jsonb_build_array(k.partstrat, 0 = ANY (k.partattrs::int2[])) FROM pg_partitioned_table k WHERE k.partrelid = c.oid),
           pg_get_expr(c.relpartbound, c.oid) = 'DEFAULT',
           (SELECT count(*) FROM pg_inherits WHERE inhrelid = c.oid),
           EXISTS (SELECT FROM pg_inherits WHERE inhparent = c.oid),
           CASE WHEN c.relkind IN ('r', 'p') THEN
           ARRAY(SELECT DISTINCT concat_ws(' ', a.attidentity, a.attgenerated, a.attstorage <> y.typstorage, a.attcompression,
                                           a.attcollation <> y.typcollation, a.attisdropped, a.attacl IS NULL, a.attoptions IS NULL,
                                           a.attinhcount > 0 AND a.attislocal, a.atthasmissing, a.atthasdef)
                 FROM pg_attribute a LEFT JOIN pg_type y ON y.oid = a.atttypid WHERE a.attrelid = c.oid AND a.attnum > 0 ORDER BY 1) END,
           ARRAY(SELECT DISTINCT concat_ws(' ', k.contype, k.condeferrable, k.condeferred, k.convalidated, k.confdeltype,
                                           k.confupdtype, k.confmatchtype, k.connoinherit, k.conrelid = k.confrelid,
                                           to_jsonb(k) -> 'conenforced', to_jsonb(k) -> 'conperiod')
                 FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype <> 'n' ORDER BY 1),
           ARRAY(SELECT DISTINCT concat_ws(' ', k.condeferrable, k.confdeltype, k.convalidated, cardinality(k.conkey) > 1)
                 FROM pg_constraint k WHERE k.contype = 'f' AND k.confrelid = c.oid ORDER BY 1),
           ARRAY(SELECT DISTINCT concat_ws(' ', x.relam, i.indisunique, i.indisprimary, i.indisclustered, i.indisreplident,
                                           i.indisvalid, i.indpred IS NULL, i.indexprs IS NULL, i.indnatts > i.indnkeyatts,
                                           to_jsonb(i) -> 'indnullsnotdistinct', x.reloptions IS NULL)
                 FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid WHERE i.indrelid = c.oid ORDER BY 1),
           ARRAY(SELECT DISTINCT concat_ws(' ', t.tgtype, t.tgenabled, t.tgdeferrable, t.tgqual IS NULL, t.tgoldtable IS NULL)
                 FROM pg_trigger t WHERE t.tgrelid = c.oid AND NOT t.tgisinternal ORDER BY 1),
           CASE WHEN c.relkind IN ('r', 'p') THEN
           ARRAY(SELECT DISTINCT concat_ws(' ', r.ev_type, r.is_instead, r.ev_enabled) FROM pg_rewrite r WHERE r.ev_class = c.oid ORDER BY 1) END,
           ARRAY(SELECT DISTINCT concat_ws(' ', p.polcmd, p.polpermissive) FROM pg_policy p WHERE p.polrelid = c.oid ORDER BY 1),
           ARRAY(SELECT DISTINCT v.relkind::text FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid
                 JOIN pg_class v ON v.oid = r.ev_class
                 WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid
                   AND v.oid <> c.oid ORDER BY 1),
           ARRAY(SELECT DISTINCT d.classid FROM pg_depend d
                 WHERE d.refclassid = 'pg_type'::regclass AND d.refobjid = c.reltype ORDER BY 1),
           EXISTS (SELECT FROM pg_publication_rel p WHERE p.prrelid = c.oid),
           EXISTS (SELECT FROM pg_statistic_ext s WHERE s.stxrelid = c.oid),
           ARRAY(SELECT DISTINCT d.objsubid > 0 FROM pg_description d WHERE d.classoid = 'pg_class'::regclass AND d.objoid = c.oid ORDER BY 1)
       )::text) AS shape,
       ARRAY(SELECT DISTINCT CASE WHEN a.atttypid < 16384 THEN format_type(a.atttypid, NULL) ELSE y.typtype::text || y.typcategory::text END
             FROM pg_attribute a JOIN pg_type y ON y.oid = a.atttypid WHERE a.attrelid = c.oid AND a.attnum > 0) AS types
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.relpersistence <> 't'
  AND n.nspname !~ '^(pg_|information_schema$|safecopy$|exam$|exam_)'
ORDER BY n.nspname, c.relname;

-- name: ties
-- Relations that a publish into one of them may touch together: copied at once, they would get into each other's way.
SELECT inhparent, inhrelid FROM pg_inherits
UNION ALL
SELECT conrelid, confrelid FROM pg_constraint WHERE contype = 'f'
UNION ALL
SELECT a.attrelid, y.typrelid FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
JOIN pg_type y ON y.oid IN (t.oid, t.typelem) WHERE y.typtype = 'c' AND a.attnum > 0
UNION ALL
-- What a trigger mentions, it may read or write.
SELECT t.tgrelid, c.oid FROM pg_trigger t JOIN pg_proc f ON f.oid = t.tgfoid
JOIN pg_class c ON strpos(lower(f.prosrc), lower(c.relname::text)) > 0
WHERE NOT t.tgisinternal AND c.relkind IN ('r', 'p', 'v') AND length(c.relname::text) > 4 AND c.oid >= 16384
UNION ALL
SELECT r.ev_class, d.refobjid FROM pg_rewrite r
JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass;

-- name: neighbours
-- The tables whose rows might change with this one's: those that refer to it, and those that inherit from it. Not the
-- tables it is a part of, and not its own partitions.
WITH RECURSIVE above(oid) AS (
    SELECT %(name)s::regclass::oid UNION SELECT i.inhparent FROM above JOIN pg_inherits i ON i.inhrelid = above.oid
)
SELECT DISTINCT n.nspname::text, c.relname::text
FROM (SELECT conrelid AS oid FROM pg_constraint WHERE contype = 'f' AND confrelid = %(name)s::regclass
      UNION SELECT inhrelid FROM pg_inherits WHERE inhparent = %(name)s::regclass) AS near(oid)
JOIN pg_class c USING (oid) JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid NOT IN (SELECT oid FROM above) AND c.relkind IN ('r', 'p')
  AND c.oid NOT IN (SELECT relid FROM pg_partition_tree(%(name)s::regclass));

-- name: columns
-- What can be written: generated columns cannot.
SELECT a.attname::text, a.attnotnull, i.indrelid IS NOT NULL AS keyed, a.atttypid IN (20, 21, 23) AS whole
FROM pg_attribute a
LEFT JOIN pg_index i ON i.indrelid = a.attrelid AND i.indisunique AND a.attnum = ANY (i.indkey)
WHERE a.attrelid = %(name)s::regclass AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
ORDER BY a.attnum;
