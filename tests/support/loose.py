"""A type that is loose about letter case."""

LOOSE = """
CREATE TYPE {schema}.느슨;
CREATE FUNCTION {schema}.느슨_in(cstring) RETURNS {schema}.느슨 LANGUAGE internal IMMUTABLE STRICT AS 'textin';
CREATE FUNCTION {schema}.느슨_out({schema}.느슨) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'textout';
CREATE TYPE {schema}.느슨 (INPUT = {schema}.느슨_in, OUTPUT = {schema}.느슨_out, LIKE = text, COLLATABLE = true);
CREATE CAST ({schema}.느슨 AS text) WITHOUT FUNCTION AS IMPLICIT;
CREATE FUNCTION {schema}.느슨_cmp({schema}.느슨, {schema}.느슨) RETURNS int LANGUAGE sql IMMUTABLE STRICT AS
    'SELECT pg_catalog.bttextcmp(pg_catalog.lower($1::text), pg_catalog.lower($2::text))';
CREATE FUNCTION {schema}.느슨_eq({schema}.느슨, {schema}.느슨) RETURNS bool LANGUAGE sql IMMUTABLE STRICT AS
    'SELECT pg_catalog.lower($1::text) OPERATOR(pg_catalog.=) pg_catalog.lower($2::text)';
CREATE FUNCTION {schema}.느슨_hash({schema}.느슨) RETURNS int LANGUAGE sql IMMUTABLE STRICT AS
    'SELECT pg_catalog.hashtext(pg_catalog.lower($1::text))';
CREATE OPERATOR {schema}.= (LEFTARG = {schema}.느슨, RIGHTARG = {schema}.느슨, FUNCTION = {schema}.느슨_eq, COMMUTATOR = OPERATOR({schema}.=), HASHES, MERGES);
CREATE OPERATOR CLASS {schema}.느슨_ops DEFAULT FOR TYPE {schema}.느슨 USING btree AS OPERATOR 3 {schema}.=, FUNCTION 1 {schema}.느슨_cmp({schema}.느슨, {schema}.느슨);
CREATE OPERATOR CLASS {schema}.느슨_hash_ops DEFAULT FOR TYPE {schema}.느슨 USING hash AS OPERATOR 1 {schema}.=, FUNCTION 1 {schema}.느슨_hash({schema}.느슨)
"""
"""A text that disregards letter case, as the extension citext has it, which is not everywhere."""
