-- What hangs on a table and must hang on the one that takes its place. The statements are made here, on the server,
-- out of its own words for each thing: under search_path = pg_catalog those name everything with its schema, and they
-- are read back under the same.

-- name: statements
-- `first`: locks on others, before the table's own. `before`: with the table locked and still in its place. `after`:
-- with the new one in its place, the old one still there. `lock`: what is told of others that are locked. `dependent`:
-- no statement, but everything else, so that any more of it is noticed. `presumed`: the part of `after` that only revokes
-- what default privileges have granted on the new table. %(schema)s and %(name)s are the new table's.
WITH RECURSIVE t AS (
    SELECT c.*, c.oid::regclass::text AS label, has.all_that_is_usual AS owner_has_all
    FROM pg_class c CROSS JOIN LATERAL (
        SELECT c.relacl IS NULL OR COALESCE(array_agg(format('%%s %%s', g.privilege_type, g.is_grantable) ORDER BY g.privilege_type)
               = ARRAY(SELECT format('%%s f', d.privilege_type) FROM aclexplode(acldefault('r', c.relowner)) d ORDER BY d.privilege_type), false)
        FROM aclexplode(c.relacl) g WHERE g.grantee = c.relowner
    ) AS has(all_that_is_usual)
    WHERE c.oid = %(oid)s
), part AS (
    SELECT 'pg_class'::regclass AS classid, oid FROM t
    UNION ALL
    SELECT 'pg_type'::regclass, y.oid FROM t JOIN pg_type y ON y.oid = t.reltype OR y.oid = (SELECT typarray FROM pg_type WHERE oid = t.reltype)
), dependent AS (
    SELECT DISTINCT d.classid, d.objid FROM part JOIN pg_depend d ON d.refclassid = part.classid AND d.refobjid = part.oid
), rule AS (
    SELECT r.oid, r.ev_class, r.ev_type FROM t, dependent d JOIN pg_rewrite r ON r.oid = d.objid
    WHERE d.classid = 'pg_rewrite'::regclass AND r.ev_class <> t.oid
), reference AS (
    SELECT f.*, f.conrelid::regclass::text AS child FROM t, dependent d JOIN pg_constraint f ON f.oid = d.objid
    WHERE d.classid = 'pg_constraint'::regclass AND f.contype = 'f' AND f.confrelid = t.oid AND f.conrelid <> t.oid
), also_locked AS (
    -- The last are those that the table refers to: dropping it drops its foreign keys' triggers on them.
    SELECT c.oid, c.relkind, pg_get_userbyid(c.relowner) AS owner
    FROM (SELECT ev_class FROM rule UNION SELECT conrelid FROM reference
          UNION SELECT k.confrelid FROM t JOIN pg_constraint k ON k.conrelid = t.oid AND k.contype = 'f') AS other(oid)
    JOIN pg_class c USING (oid) WHERE oid <> %(oid)s
), granted AS (
    SELECT 0 AS attnum, '' AS columns, g.* FROM t, aclexplode(t.relacl) g
    UNION ALL
    SELECT a.attnum, format(' (%%I)', a.attname), g.* FROM t, pg_attribute a, aclexplode(a.attacl) g
    WHERE a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped
), chain AS (
    -- Who was granted something by another role than the owner comes after that role.
    SELECT g.*, 0 AS depth FROM t, granted g WHERE g.grantor = t.relowner
    UNION
    SELECT g.*, c.depth + 1 FROM t, chain c JOIN granted g
        ON g.grantor = c.grantee AND g.privilege_type = c.privilege_type AND c.attnum IN (0, g.attnum)
    WHERE c.is_grantable AND g.grantor <> t.relowner AND c.depth < (SELECT count(DISTINCT grantor) FROM granted)
), grants AS (
    SELECT attnum, depth, grantor,
           format('GRANT %%s ON TABLE %%s TO %%s%%s', string_agg(privilege_type || columns, ', ' ORDER BY privilege_type),
                  (SELECT label FROM t), CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END,
                  CASE WHEN is_grantable THEN ' WITH GRANT OPTION' END) AS statement
    FROM (SELECT attnum, columns, grantor, grantee, privilege_type, is_grantable, min(depth) AS depth
          FROM t, chain WHERE NOT (attnum = 0 AND grantee = relowner AND owner_has_all) GROUP BY 1, 2, 3, 4, 5, 6) AS c
    GROUP BY attnum, columns, grantor, grantee, is_grantable, depth
), presumed AS (
    -- What default privileges have granted on the new table.
    SELECT (SELECT string_agg(DISTINCT CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(g.grantee)) END, ', ')
            FROM aclexplode(c.relacl) g) AS grantees
    FROM pg_class c WHERE c.oid = to_regclass(quote_ident(%(schema)s) || '.' || quote_ident(%(name)s)) AND c.relacl IS NOT NULL
), remark(classoid, objoid, objsubid, what) AS (
    SELECT 'pg_class'::regclass, oid, 0, 'TABLE ' || label FROM t
    UNION ALL
    SELECT 'pg_class'::regclass, t.oid, a.attnum, format('COLUMN %%s.%%I', t.label, a.attname)
    FROM t JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped
    UNION ALL
    SELECT 'pg_class'::regclass, i.indexrelid, 0, 'INDEX ' || i.indexrelid::regclass
    FROM t JOIN pg_index i ON i.indrelid = t.oid
    UNION ALL
    SELECT classid, oid, 0, 'TYPE ' || oid::regtype FROM part WHERE classid = 'pg_type'::regclass
    UNION ALL
    SELECT 'pg_constraint'::regclass, k.oid, 0, format('CONSTRAINT %%I ON %%s', k.conname, k.conrelid::regclass)
    FROM pg_constraint k WHERE k.conrelid IN (SELECT oid FROM t) OR k.oid IN (SELECT oid FROM reference)
    UNION ALL
    SELECT 'pg_trigger'::regclass, g.oid, 0, format('TRIGGER %%I ON %%s', g.tgname, t.label) FROM t JOIN pg_trigger g ON g.tgrelid = t.oid
    UNION ALL
    SELECT 'pg_policy'::regclass, p.oid, 0, format('POLICY %%I ON %%s', p.polname, t.label) FROM t JOIN pg_policy p ON p.polrelid = t.oid
), step(phase, rank, detail, statement) AS (
    -- The locks that readers take one after the other come in their order: the view, then what it reads. A view that
    -- reads another one is as a rule the younger. LOCK would lock what the view reads as well; this does not.
    SELECT 'first', 1, -oid::bigint, format('ALTER VIEW %%s OWNER TO %%I', oid::regclass, owner) FROM also_locked WHERE relkind = 'v'
    UNION ALL
    SELECT 'first', 2, oid::bigint, format('LOCK TABLE %%s%%s IN ACCESS EXCLUSIVE MODE', CASE WHEN relkind <> 'p' THEN 'ONLY ' END, oid::regclass)
    FROM also_locked WHERE relkind IN ('r', 'p') AND has_table_privilege(oid, 'UPDATE, DELETE, TRUNCATE')
    UNION ALL
    SELECT 'lock', 1, oid::bigint, oid::regclass || ' ACCESS EXCLUSIVE' FROM also_locked
    UNION ALL
    SELECT 'dependent', 1, 1, concat_ws(' ', classid, objid) FROM dependent
    UNION ALL
    SELECT 'presumed', 1, 1, format('REVOKE ALL PRIVILEGES ON TABLE %%s FROM %%s', t.label, p.grantees) FROM t, presumed p WHERE p.grantees IS NOT NULL
    UNION ALL
    SELECT 'presumed', 2, 1, format('GRANT ALL PRIVILEGES ON TABLE %%s TO %%I', t.label, pg_get_userbyid(t.relowner)) FROM t, presumed
    UNION ALL
    SELECT 'dependent', 2, 1, concat_ws(' ', 'subscription', srsubid) FROM pg_subscription_rel WHERE srrelid = %(oid)s
    UNION ALL
    SELECT 'before', 1, f.oid::bigint, format('ALTER TABLE %%s DROP CONSTRAINT %%I', f.child, f.conname)
    FROM reference f WHERE f.conparentid = 0
    UNION ALL
    SELECT 'after', 10, 1, format('ALTER TABLE %%s OWNER TO %%I', label, pg_get_userbyid(relowner)) FROM t
    UNION ALL
    SELECT 'after', 11, 1, format('REVOKE ALL PRIVILEGES ON TABLE %%s FROM %%s', t.label, p.grantees) FROM t, presumed p WHERE p.grantees IS NOT NULL
    UNION ALL
    SELECT 'after', 12, 1, format('GRANT ALL PRIVILEGES ON TABLE %%s TO %%I', t.label, pg_get_userbyid(t.relowner)) FROM t, presumed
    UNION ALL
    SELECT 'after', 20, 1, format('ALTER TABLE %%s REPLICA IDENTITY %%s', t.label, CASE t.relreplident WHEN 'f' THEN 'FULL' WHEN 'n' THEN 'NOTHING'
        ELSE format('USING INDEX %%I', (SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
                                        WHERE i.indrelid = t.oid AND i.indisreplident)) END)
    FROM t WHERE t.relreplident <> 'd'
    UNION ALL
    SELECT 'after', 21, 1, format('ALTER TABLE %%s CLUSTER ON %%I', t.label, c.relname)
    FROM t JOIN pg_index i ON i.indrelid = t.oid AND i.indisclustered JOIN pg_class c ON c.oid = i.indexrelid
    UNION ALL
    SELECT 'after', 30, g.oid::bigint, pg_get_triggerdef(g.oid) FROM t JOIN pg_trigger g ON g.tgrelid = t.oid WHERE NOT g.tgisinternal
    UNION ALL
    SELECT 'after', 31, g.oid::bigint, format('ALTER TABLE %%s %%s TRIGGER %%I', t.label,
        CASE g.tgenabled WHEN 'D' THEN 'DISABLE' WHEN 'R' THEN 'ENABLE REPLICA' ELSE 'ENABLE ALWAYS' END, g.tgname)
    FROM t JOIN pg_trigger g ON g.tgrelid = t.oid WHERE NOT g.tgisinternal AND g.tgenabled <> 'O'
    UNION ALL
    -- So replaced, a view or a rule keeps its OID, and with it all that is said of it. A view's query is a rule as well,
    -- but would not be quite the same were it replaced as one.
    SELECT 'after', 40, r.oid::bigint, CASE WHEN c.relkind = 'v' AND r.ev_type = '1'
        THEN format('CREATE OR REPLACE VIEW %%s%%s AS %%s', c.oid::regclass,
                    (SELECT format(' WITH (%%s)', string_agg(format('%%I = %%L', split_part(o, '=', 1), substr(o, strpos(o, '=') + 1)), ', '))
                     FROM unnest(c.reloptions) AS o HAVING count(*) > 0), pg_get_viewdef(c.oid))
        ELSE regexp_replace(pg_get_ruledef(r.oid), '^CREATE RULE', 'CREATE OR REPLACE RULE') END
    FROM rule r JOIN pg_class c ON c.oid = r.ev_class
    UNION ALL
    SELECT 'after', 50, f.oid::bigint, format('ALTER TABLE %%s ADD CONSTRAINT %%I %%s', f.child, f.conname, pg_get_constraintdef(f.oid))
    FROM reference f WHERE f.conparentid = 0
    UNION ALL
    SELECT 'after', 60, p.oid::bigint, format('CREATE POLICY %%I ON %%s AS %%s FOR %%s TO %%s%%s%%s', p.polname, t.label,
        CASE WHEN p.polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
        CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE' ELSE 'ALL' END,
        (SELECT string_agg(CASE role WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(role)) END, ', ') FROM unnest(p.polroles) role),
        ' USING (' || pg_get_expr(p.polqual, p.polrelid) || ')', ' WITH CHECK (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')')
    FROM t JOIN pg_policy p ON p.polrelid = t.oid
    UNION ALL
    SELECT 'after', 61, 1, format('ALTER TABLE %%s ENABLE ROW LEVEL SECURITY', label) FROM t WHERE relrowsecurity
    UNION ALL
    SELECT 'after', 62, 1, format('ALTER TABLE %%s FORCE ROW LEVEL SECURITY', label) FROM t WHERE relforcerowsecurity
    UNION ALL
    SELECT 'after', 70, p.oid::bigint, format('ALTER PUBLICATION %%I ADD TABLE %%s%%s%%s', p.pubname, t.label,
        (SELECT format(' (%%s)', string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum))
         FROM pg_attribute a WHERE a.attrelid = t.oid AND a.attnum = ANY (r.prattrs) HAVING count(*) > 0),
        ' WHERE (' || pg_get_expr(r.prqual, t.oid) || ')')
    FROM t
    -- Server 14 has neither in its catalog; there the names are found here.
    CROSS JOIN (SELECT NULL::pg_node_tree AS prqual, NULL::int2vector AS prattrs) AS absent
    CROSS JOIN LATERAL (SELECT prpubid, prqual, prattrs FROM pg_publication_rel WHERE prrelid = t.oid) AS r
    JOIN pg_publication p ON p.oid = r.prpubid
    UNION ALL
    SELECT 'after', 80, row_number() OVER (ORDER BY m.what), format('COMMENT ON %%s IS %%L', m.what, d.description)
    FROM remark m JOIN pg_description d USING (classoid, objoid, objsubid)
    UNION ALL
    SELECT 'after', 90, 1, format('REVOKE ALL PRIVILEGES ON TABLE %%s FROM %%I', label, pg_get_userbyid(relowner)) FROM t WHERE NOT owner_has_all
    UNION ALL
    SELECT 'after', 91, row_number() OVER (ORDER BY g.attnum > 0, g.depth, g.attnum, g.statement), CASE g.grantor WHEN t.relowner THEN g.statement
        ELSE format('SET LOCAL ROLE %%I; %%s; SET LOCAL ROLE %%I', pg_get_userbyid(g.grantor), g.statement, current_user) END
    FROM t, grants g
)
SELECT phase, statement FROM step ORDER BY phase, rank, detail, statement

-- name: unfit
-- What a table may not be, what may not hang on it, and what this role may not do: one row for each, `problem` being a
-- word of ours. Whatever depends on the table or a part of it and is not carried is among them, of any kind.
WITH RECURSIVE t AS (
    SELECT c.*, n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = %(oid)s
), part AS (
    SELECT 'pg_class'::regclass AS classid, oid FROM t
    UNION ALL
    SELECT 'pg_type'::regclass, y.oid FROM t JOIN pg_type y ON y.oid = t.reltype OR y.oid = (SELECT typarray FROM pg_type WHERE oid = t.reltype)
    UNION ALL SELECT 'pg_class'::regclass, indexrelid FROM t JOIN pg_index ON indrelid = t.oid
    UNION ALL SELECT 'pg_constraint'::regclass, k.oid FROM t JOIN pg_constraint k ON k.conrelid = t.oid
    UNION ALL SELECT 'pg_attrdef'::regclass, d.oid FROM t JOIN pg_attrdef d ON d.adrelid = t.oid
    UNION ALL SELECT 'pg_trigger'::regclass, g.oid FROM t JOIN pg_trigger g ON g.tgrelid = t.oid
    UNION ALL SELECT 'pg_policy'::regclass, p.oid FROM t JOIN pg_policy p ON p.polrelid = t.oid
    UNION ALL SELECT 'pg_statistic_ext'::regclass, x.oid FROM t JOIN pg_statistic_ext x ON x.stxrelid = t.oid
    UNION ALL SELECT 'pg_publication_rel'::regclass, r.oid FROM t JOIN pg_publication_rel r ON r.prrelid = t.oid
), dependent AS (
    SELECT DISTINCT d.classid, d.objid, d.objsubid FROM part JOIN pg_depend d ON d.refclassid = part.classid AND d.refobjid = part.oid
    WHERE NOT EXISTS (SELECT FROM part own WHERE own.classid = d.classid AND own.oid = d.objid)
), rule AS (
    SELECT d.objid AS oid, c.oid AS on_oid, c.relowner, t.oid <> c.oid AND c.relkind IN ('v', 'r', 'p') AND c.relpersistence <> 't' AS carried
    FROM t, dependent d JOIN pg_rewrite r ON r.oid = d.objid JOIN pg_class c ON c.oid = r.ev_class
    WHERE d.classid = 'pg_rewrite'::regclass
), reference AS (
    SELECT f.*, p.conname AS parent_name, p.convalidated AS parent_validated
    FROM t, dependent d JOIN pg_constraint f ON f.oid = d.objid LEFT JOIN pg_constraint p ON p.oid = f.conparentid
    WHERE d.classid = 'pg_constraint'::regclass AND f.contype = 'f' AND f.confrelid = t.oid
), made_again AS (
    SELECT 'pg_rewrite'::regclass AS classid, oid FROM rule WHERE carried
    UNION ALL SELECT 'pg_constraint'::regclass, oid FROM reference
    UNION ALL SELECT classid, oid FROM part WHERE classid IN ('pg_trigger'::regclass, 'pg_policy'::regclass, 'pg_publication_rel'::regclass)
), granted AS (
    SELECT 0 AS attnum, g.* FROM t, aclexplode(t.relacl) g
    UNION ALL
    SELECT a.attnum, g.* FROM t, pg_attribute a, aclexplode(a.attacl) g WHERE a.attrelid = t.oid AND NOT a.attisdropped
), chain AS (
    SELECT g.* FROM t, granted g WHERE g.grantor = t.relowner
    UNION
    SELECT g.* FROM t, chain c JOIN granted g
        ON g.grantor = c.grantee AND g.privilege_type = c.privilege_type AND c.attnum IN (0, g.attnum)
    WHERE c.is_grantable
        AND NOT pg_has_role(g.grantor, t.relowner, 'USAGE') AND has_schema_privilege(g.grantor, t.relnamespace, 'USAGE')
        AND pg_has_role(session_user, g.grantor, CASE WHEN current_setting('server_version_num')::int >= 160000 THEN 'SET' ELSE 'MEMBER' END)
), found(problem, object) AS (
    SELECT 'typed', 'the type ' || reloftype::regtype FROM t WHERE reloftype <> 0
    UNION ALL
    SELECT 'inheritance', CASE t.oid WHEN i.inhparent THEN i.inhrelid ELSE i.inhparent END::regclass::text
    FROM t JOIN pg_inherits i ON t.oid IN (i.inhrelid, i.inhparent)
    UNION ALL
    SELECT 'extension', pg_describe_object(d.refclassid, d.refobjid, 0)
    FROM part JOIN pg_depend d ON d.classid = part.classid AND d.objid = part.oid AND d.deptype IN ('e', 'x')
    UNION ALL
    SELECT 'depends', format('the security label of %%s by %%s', pg_describe_object(l.classoid, l.objoid, l.objsubid), l.provider)
    FROM part JOIN pg_seclabel l ON l.classoid = part.classid AND l.objoid = part.oid
    UNION ALL
    SELECT 'depends', 'privileges on the row type ' || y.oid::regtype FROM t JOIN pg_type y ON y.oid = t.reltype WHERE y.typacl IS NOT NULL
    UNION ALL
    SELECT 'depends', pg_describe_object('pg_class'::regclass, on_oid, 0) FROM t, rule WHERE NOT carried AND on_oid <> t.oid
    UNION ALL
    SELECT 'depends', pg_describe_object(d.classid, d.objid, d.objsubid) FROM dependent d LEFT JOIN pg_class c
        ON d.classid = 'pg_class'::regclass AND c.oid = d.objid
    -- Of its toast table and the sequences it owns the new table has its own; triggers go with their foreign keys.
    WHERE NOT (COALESCE(c.relkind, '-') = 't' OR COALESCE(c.relkind, '-') = 'S' AND d.objsubid = 0)
        AND NOT EXISTS (SELECT FROM pg_inherits i WHERE i.inhparent = %(oid)s AND i.inhrelid = c.oid)
        AND NOT (d.classid = 'pg_trigger'::regclass AND EXISTS (SELECT FROM pg_trigger g WHERE g.oid = d.objid AND g.tgisinternal))
        AND NOT (d.classid = 'pg_constraint'::regclass AND d.objid IN (SELECT oid FROM reference))
        AND NOT (d.classid = 'pg_rewrite'::regclass AND d.objid IN (SELECT oid FROM rule WHERE on_oid <> %(oid)s))
    UNION ALL
    SELECT 'depends', pg_describe_object('pg_constraint'::regclass, k.oid, 0) || ', whose triggers are switched off,' FROM pg_constraint k
    WHERE (k.oid IN (SELECT oid FROM reference) OR k.conrelid IN (SELECT oid FROM t))
        AND EXISTS (SELECT FROM pg_trigger g WHERE g.tgconstraint = k.oid AND g.tgisinternal AND g.tgenabled <> 'O')
    UNION ALL
    SELECT 'depends', pg_describe_object('pg_constraint'::regclass, oid, 0) || ', which is not as its parent is,'
    FROM reference WHERE (conname, convalidated) <> (parent_name, parent_validated)
    UNION ALL
    SELECT 'published', format('%%I, for all tables', pubname) FROM pg_publication WHERE puballtables
    UNION ALL
    SELECT DISTINCT 'published', format('%%I, for all tables in schema %%I', p.pubname, v.schemaname)
    FROM t, pg_publication p JOIN pg_publication_tables v USING (pubname)
    WHERE NOT p.puballtables AND v.schemaname IN (t.nspname, 'safecopy') AND NOT EXISTS (
        SELECT FROM pg_publication_rel r JOIN pg_class c ON c.oid = r.prrelid JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE r.prpubid = p.oid AND c.relname = v.tablename AND n.nspname = v.schemaname)
    UNION ALL
    SELECT 'subscribed', quote_ident(s.subname) FROM t JOIN pg_subscription_rel r ON r.srrelid = t.oid JOIN pg_subscription s ON s.oid = r.srsubid
    UNION ALL
    SELECT 'lacks', format('the rights of its owner %%I', pg_get_userbyid(relowner)) FROM t WHERE NOT pg_has_role(relowner, 'USAGE')
    UNION ALL
    SELECT 'lacks', format('SET on role %%I, its owner', pg_get_userbyid(relowner)) FROM t
    WHERE pg_get_userbyid(relowner) <> current_user AND pg_has_role(relowner, 'USAGE')
        AND NOT pg_has_role(relowner, CASE WHEN current_setting('server_version_num')::int >= 160000 THEN 'SET' ELSE 'MEMBER' END)
    UNION ALL
    SELECT 'lacks', format('CREATE on schema %%I', nspname) FROM t WHERE NOT has_schema_privilege(relnamespace, 'CREATE')
    UNION ALL
    SELECT 'owner_lacks', format('CREATE on schema %%I', nspname) FROM t
    WHERE NOT has_schema_privilege(relowner, relnamespace, 'CREATE')
        AND pg_get_userbyid(relowner) <> current_user AND NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)
    UNION ALL
    SELECT DISTINCT 'lacks', format('the rights of %%I, who owns %%s', pg_get_userbyid(owner), what) FROM (
        SELECT relowner, pg_describe_object('pg_class'::regclass, on_oid, 0) FROM rule WHERE carried
        UNION ALL
        SELECT c.relowner, pg_describe_object('pg_class'::regclass, c.oid, 0) FROM reference f JOIN pg_class c ON c.oid = f.conrelid
        UNION ALL
        SELECT p.pubowner, pg_describe_object('pg_publication'::regclass, p.oid, 0)
        FROM t JOIN pg_publication_rel r ON r.prrelid = t.oid JOIN pg_publication p ON p.oid = r.prpubid
    ) AS other(owner, what) WHERE NOT pg_has_role(owner, 'USAGE')
    UNION ALL
    SELECT DISTINCT 'lacks', format('CREATE on schema %%I, which is needed to replace %%s', n.nspname, pg_describe_object('pg_class'::regclass, on_oid, 0))
    FROM rule JOIN pg_class c ON c.oid = on_oid AND c.relkind = 'v' JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE carried AND NOT has_schema_privilege(n.oid, 'CREATE')
    UNION ALL
    SELECT DISTINCT 'lacks', format('EXECUTE on %%s', pg_describe_object('pg_proc'::regclass, g.tgfoid, 0))
    FROM t JOIN pg_trigger g ON g.tgrelid = t.oid WHERE NOT g.tgisinternal AND NOT has_function_privilege(g.tgfoid, 'EXECUTE')
    UNION ALL
    SELECT DISTINCT 'lacks', format('USAGE on schema %%I, which is needed to make %%s again', n.nspname, pg_describe_object(d.classid, d.objid, 0))
    FROM made_again m JOIN pg_depend d ON d.classid = m.classid AND d.objid = m.oid
    CROSS JOIN LATERAL pg_identify_object(d.refclassid, d.refobjid, 0) i
    JOIN pg_namespace n ON quote_ident(n.nspname) = i.schema WHERE NOT has_schema_privilege(n.oid, 'USAGE')
    UNION ALL
    SELECT 'lacks', 'BYPASSRLS, which is needed to check ' || pg_describe_object('pg_constraint'::regclass, oid, 0)
    FROM reference WHERE convalidated AND row_security_active(conrelid)
    UNION ALL
    SELECT 'granted', format('%%s to %%s by %%I', g.privilege_type, CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(g.grantee)) END,
                             pg_get_userbyid(g.grantor))
    FROM (SELECT * FROM granted EXCEPT SELECT * FROM chain) AS g
)
SELECT DISTINCT problem, object FROM found ORDER BY 1, 2

-- name: compare_rights
-- Rights on only one of two tables, %(old)s and %(new)s, with their columns and identity sequences. Asked while both
-- exist.
WITH part AS (
    SELECT c.oid, 'table' AS name, COALESCE(c.relacl, acldefault('r', c.relowner)) AS acl FROM pg_class c WHERE c.oid IN (%(old)s, %(new)s)
    UNION ALL
    SELECT a.attrelid, format('column %%I', a.attname), a.attacl FROM pg_attribute a
    WHERE a.attrelid IN (%(old)s, %(new)s) AND a.attnum > 0 AND NOT a.attisdropped
    UNION ALL
    SELECT d.refobjid, format('sequence of column %%I', a.attname), COALESCE(s.relacl, acldefault('s', s.relowner))
    FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
    JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
    WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid IN (%(old)s, %(new)s) AND d.deptype = 'i'
), granted AS (
    SELECT oid, name, g.grantor, g.grantee, g.privilege_type, g.is_grantable FROM part CROSS JOIN LATERAL aclexplode(acl) g
)
SELECT DISTINCT format('%%s on the %%s to %%s', privilege_type, name, CASE grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(grantee) END) AS apart
FROM granted GROUP BY name, grantor, grantee, privilege_type, is_grantable HAVING count(DISTINCT oid) = 1
ORDER BY 1

-- name: reluctance
SELECT ARRAY(SELECT k.conname::text || ' to ' || k.confrelid::regclass::text FROM pg_constraint k
             WHERE k.contype = 'f' AND k.conrelid = %(oid)s AND k.confrelid <> %(oid)s AND k.conparentid = 0 AND k.convalidated ORDER BY 1) AS refers_to,
       ARRAY(SELECT k.conname::text FROM pg_constraint k
             WHERE k.conrelid = %(oid)s AND k.conparentid = 0 AND right(pg_get_constraintdef(k.oid), 10) = ' NOT VALID' ORDER BY 1) AS unvalidated,
       ARRAY(SELECT e.evtname::text FROM pg_event_trigger e
             WHERE e.evtevent = 'ddl_command_end' AND e.evtenabled IN ('O', 'A')
               AND (e.evttags IS NULL OR e.evttags && '{CREATE TABLE,ALTER TABLE}') ORDER BY 1) AS event_triggers,
       ARRAY(SELECT tgname::text FROM pg_trigger WHERE tgrelid = %(oid)s AND NOT tgisinternal AND tgenabled IN ('O', 'A') ORDER BY 1) AS triggers,
       ARRAY(SELECT p.pubname::text FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
             WHERE r.prrelid = %(oid)s ORDER BY 1) AS publications,
       ARRAY(SELECT f.conname::text || ' on ' || f.conrelid::regclass::text FROM pg_constraint f
             WHERE f.contype = 'f' AND f.confrelid = %(oid)s AND f.conrelid <> %(oid)s AND f.conparentid = 0 AND f.convalidated ORDER BY 1) AS referenced_by
