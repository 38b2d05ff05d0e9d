-- What the suite drops is kept instead, in a schema of its own, so that its end holds all that it ever made.

CREATE SCHEMA exam;
CREATE SEQUENCE exam.kept;
GRANT USAGE ON SCHEMA exam TO PUBLIC;

-- In place of DROP TABLE, VIEW and MATERIALIZED VIEW. Names are looked up as the caller would.
CREATE FUNCTION exam.keep(names text[], cascades bool) RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    given text;
    found oid;
    home text;
    hung record;
BEGIN
    FOREACH given IN ARRAY names LOOP
        found := to_regclass(given);
        CONTINUE WHEN found IS NULL;
        IF (SELECT relpersistence = 't' FROM pg_class WHERE oid = found) THEN
            EXECUTE format('DROP TABLE %s', found::regclass);
            CONTINUE;
        END IF;
        home := exam.home();
        FOR hung IN
            WITH RECURSIVE below(oid) AS (
                SELECT found
                UNION
                SELECT each.oid FROM below CROSS JOIN LATERAL (
                    SELECT inhrelid FROM pg_inherits WHERE inhparent = below.oid
                    UNION ALL
                    SELECT r.ev_class FROM pg_depend d
                    JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
                    WHERE cascades AND d.refclassid = 'pg_class'::regclass AND d.refobjid = below.oid
                ) AS each(oid)
            )
            SELECT c.oid::regclass AS name,
                   CASE c.relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'f' THEN 'FOREIGN TABLE'
                                  ELSE 'TABLE' END AS kind
            FROM below JOIN pg_class c USING (oid) WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f')
        LOOP
            EXECUTE format('ALTER %s %s SET SCHEMA %I', hung.kind, hung.name, home);
        END LOOP;
    END LOOP;
END $$;

-- In place of DROP SCHEMA … CASCADE.
CREATE FUNCTION exam.keep_schemas(names text[]) RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    given text;
BEGIN
    FOREACH given IN ARRAY names LOOP
        CONTINUE WHEN to_regnamespace(given) IS NULL;
        EXECUTE format('ALTER SCHEMA %s RENAME TO kept_%s', to_regnamespace(given), nextval('exam.kept'));
    END LOOP;
END $$;

CREATE FUNCTION exam.home() RETURNS text LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    home text := 'kept_' || nextval('exam.kept');
BEGIN
    EXECUTE format('CREATE SCHEMA %I', home);
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO PUBLIC', home);
    RETURN home;
END $$;

-- Five rows for each table that has none, as far as it takes them. Parents of foreign keys first come, in some pass.
CREATE PROCEDURE exam.fill() LANGUAGE plpgsql AS $$
DECLARE
    empty record;
    held bool;
BEGIN
    FOR empty IN
        SELECT c.oid::regclass AS name, string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) AS columns,
               string_agg(exam.sample(a.atttypid, a.atttypmod), ', ' ORDER BY a.attnum) AS samples
        FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
        WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND a.attnum > 0 AND NOT a.attisdropped
          AND a.attgenerated = '' AND c.relnamespace NOT IN (SELECT oid FROM pg_namespace WHERE nspname ~ '^(pg_|information_schema$|exam$)')
        GROUP BY c.oid ORDER BY c.oid
    LOOP
        BEGIN
            EXECUTE format('SELECT EXISTS (SELECT FROM %s)', empty.name) INTO held;
            CONTINUE WHEN held;
        EXCEPTION WHEN OTHERS THEN
            CONTINUE;
        END;
        FOR i IN 1..5 LOOP
            BEGIN
                EXECUTE format('INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE SELECT %s FROM (VALUES (%s)) AS v(i)',
                               empty.name, empty.columns, empty.samples, i);
                SET CONSTRAINTS ALL IMMEDIATE;
                SET CONSTRAINTS ALL DEFERRED;
            EXCEPTION WHEN OTHERS THEN
                NULL;
            END;
        END LOOP;
        COMMIT;
    END LOOP;
END $$;

-- An expression over v.i of that type; NULL where no value comes to mind.
CREATE FUNCTION exam.sample(type oid, typmod int) RETURNS text LANGUAGE sql AS $$
    SELECT format('(%s)::%s', CASE
        WHEN b.typcategory = 'N' AND b.oid <> 'money'::regtype THEN 'v.i'
        WHEN b.typcategory = 'S' THEN format('left(%L || v.i, %s)', 'v', CASE WHEN typmod > 4 THEN typmod - 4 ELSE 9 END)
        WHEN b.typcategory = 'B' THEN 'v.i % 2 = 0'
        WHEN b.typcategory = 'D' AND b.oid NOT IN ('time'::regtype, 'timetz'::regtype) THEN 'timestamptz ''2026-01-01'' + v.i * interval ''1 day'''
        WHEN b.typcategory = 'T' THEN 'v.i * interval ''1 hour'''
        WHEN b.typcategory = 'A' THEN '''{}'''
        WHEN b.typcategory = 'E' THEN format('(enum_range(NULL::%s))[v.i]', format_type(b.oid, NULL))
        WHEN b.typcategory = 'I' THEN '''10.0.0.'' || v.i'
        WHEN b.oid IN ('json'::regtype, 'jsonb'::regtype) THEN 'format(''{"a": %s}'', v.i)'
        WHEN b.oid = 'uuid'::regtype THEN '''00000000-0000-4000-8000-00000000000'' || v.i'
        WHEN b.oid = 'bytea'::regtype THEN 'format(''\x0%s'', v.i)'
        WHEN b.oid IN ('int4range'::regtype, 'int8range'::regtype, 'numrange'::regtype) THEN 'format(''[%s,%s)'', v.i * 10, v.i * 10 + 5)'
        WHEN b.oid = 'point'::regtype THEN 'format(''(%s,%s)'', v.i, v.i)'
        ELSE 'NULL' END, format_type(type, typmod))
    FROM pg_type t JOIN pg_type b ON b.oid = CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.oid END
    WHERE t.oid = type
$$;
