-- What may happen to the customer of test_fingerprint.py, a line each; behind the dashes, what is to be noticed of it
-- (without its double quotes).
DROP TABLE 주문, "줄을 가진"; DROP PUBLICATION 알림; ALTER TABLE 고객 DROP CONSTRAINT 등급_있음, SET UNLOGGED -- relation 영업.고객: persistence was 'p', is 'u'
ALTER TABLE 고객 SET TABLESPACE @자리 -- relation 영업.고객: tablespace was None, is '@자리'
DROP TABLE "줄을 가진"; CREATE ACCESS METHOD 딴_힙 TYPE TABLE HANDLER heap_tableam_handler; ALTER TABLE 고객 SET ACCESS METHOD 딴_힙 -- access method was 'heap', is '딴_힙'
ALTER TABLE 고객 RESET (fillfactor) -- relation 영업.고객: options: lost ['fillfactor=70']
ALTER TABLE 고객 RESET (toast.autovacuum_enabled) -- toast options: lost ['autovacuum_enabled=false']
ALTER TABLE 고객 OWNER TO @주인 -- relation 영업.고객: owner was 'postgres', is '@주인'
REVOKE UPDATE ON 고객 FROM @읽는이 -- relation 영업.고객: grants: lost ['UPDATE to @읽는이 with grant option by postgres']
REVOKE GRANT OPTION FOR UPDATE ON 고객 FROM @읽는이 -- new ['UPDATE to @읽는이 by postgres']
SET ROLE @읽는이; REVOKE SELECT ON 고객 FROM @주인; RESET ROLE; GRANT SELECT ON 고객 TO @주인 -- lost ['SELECT to @주인 by @읽는이'], new ['SELECT to @주인 by postgres']
GRANT DELETE ON 고객 TO PUBLIC -- grants: lost [], new ['DELETE to PUBLIC by postgres']
ALTER TABLE 고객 DISABLE ROW LEVEL SECURITY -- relation 영업.고객: row security was True, is False
ALTER TABLE 고객 NO FORCE ROW LEVEL SECURITY -- relation 영업.고객: forced row security was True, is False
ALTER TABLE 고객 REPLICA IDENTITY FULL -- relation 영업.고객: replica identity was 'i', is 'f'
ALTER TABLE 고객 REPLICA IDENTITY USING INDEX 둘째_열쇠 -- index 영업.고객_pk on 영업.고객: replica identity was True, is False
COMMENT ON TABLE 고객 IS NULL -- relation 영업.고객: comment was '손님', is None
COMMENT ON TYPE 고객 IS NULL -- relation 영업.고객: comment on its type was '꼴', is None
ALTER TABLE 고객 ADD 공통 int, INHERIT 어미 -- relation 영업.고객: parents: lost [], new ['영업.어미']
ALTER TABLE 고객 DROP COLUMN 기간 -- lost: column 영업.고객.기간 (
ALTER TABLE 고객 DROP COLUMN 기간; ALTER TABLE 고객 ADD 기간 int4range -- column 영업.고객.기간: position was 7, is 8
DROP TABLE "줄을 가진"; ALTER TABLE 고객 ALTER 메모 TYPE varchar(41) COLLATE "C" -- column 영업.고객.메모: type was 'character varying(40)', is 'character varying(41)'
DROP TABLE "줄을 가진"; ALTER TABLE 고객 ALTER 메모 TYPE varchar(40) -- column 영업.고객.메모: collation was 'C', is 'default'
ALTER TABLE 고객 ALTER 이름 DROP NOT NULL -- column 영업.고객.이름: not null was True, is False
ALTER TABLE 고객 ALTER 등급 DROP DEFAULT -- column 영업.고객.등급: default was '금'::text, is None
ALTER TABLE 고객 ALTER 번호 SET GENERATED ALWAYS -- column 영업.고객.번호: identity was 'd', is 'a'
ALTER TABLE 고객 ALTER 번호 DROP IDENTITY -- lost: relation 영업.고객_번호_seq
ALTER TABLE 고객 ALTER 길이 DROP EXPRESSION -- column 영업.고객.길이: generated was 's', is ''
ALTER TABLE 고객 ALTER 이름 SET STORAGE EXTENDED -- column 영업.고객.이름: storage was 'e', is 'x'
ALTER TABLE 고객 ALTER 이름 SET COMPRESSION DEFAULT -- column 영업.고객.이름: compression was 'p', is ''
ALTER TABLE 고객 ALTER 이름 SET STATISTICS -1 -- column 영업.고객.이름: statistics target was 500, is -1
ALTER TABLE 고객 ALTER 이름 RESET (n_distinct) -- column 영업.고객.이름: options: lost ['n_distinct=-0.5']
COMMENT ON COLUMN 고객.이름 IS NULL -- column 영업.고객.이름: comment was '성명', is None
REVOKE SELECT (이름) ON 고객 FROM PUBLIC -- column 영업.고객.이름: grants: lost ['SELECT to PUBLIC by postgres']
DELETE FROM pg_seclabel -- lost: security labels of column 이름 of table 영업.고객
DROP INDEX 고객_식 -- lost: index 영업.고객_식 on 영업.고객
ALTER INDEX 고객_식 RENAME TO 고객_식1 -- new: index 영업.고객_식1
ALTER INDEX 고객_식 SET (fillfactor = 90) -- index 영업.고객_식 on 영업.고객: options: lost ['fillfactor=60']
ALTER INDEX 고객_식 SET TABLESPACE @자리 -- index 영업.고객_식 on 영업.고객: tablespace was None
ALTER INDEX 고객_식 ALTER COLUMN 2 SET STATISTICS -1 -- 영업.고객_식 on 영업.고객: statistics targets was
COMMENT ON INDEX 고객_식 IS NULL -- index 영업.고객_식 on 영업.고객: comment was '찾기'
UPDATE pg_index SET indisvalid = false WHERE indexrelid = '고객_식'::regclass -- 영업.고객_식 on 영업.고객: valid was True
ALTER TABLE 고객 SET WITHOUT CLUSTER -- index 영업.고객_pk on 영업.고객: clustered was True
ALTER TABLE 고객 DROP CONSTRAINT 이름_하나 -- lost: constraint 이름_하나 on 영업.고객
ALTER TABLE 고객 RENAME CONSTRAINT 고객_pk TO 고객_pk1 -- new: constraint 고객_pk1 on 영업.고객
ALTER TABLE 고객 VALIDATE CONSTRAINT 아직 -- constraint 아직 on 영업.고객: validated was False, is True
ALTER TABLE 고객 DROP CONSTRAINT 이름_하나, ADD CONSTRAINT 이름_하나 UNIQUE (이름) -- constraint 이름_하나 on 영업.고객: deferrable was True, is False
ALTER TABLE 고객 DROP CONSTRAINT 금액_양수, ADD CONSTRAINT 금액_양수 CHECK (금액 >= 0) -- constraint 금액_양수 on 영업.고객: no inherit was True, is False
COMMENT ON CONSTRAINT 금액_양수 ON 고객 IS NULL -- constraint 금액_양수 on 영업.고객: comment was '빚 없음'
ALTER TABLE 고객 DROP CONSTRAINT 등급_있음 -- lost: constraint 등급_있음 on 영업.고객
ALTER TABLE 주문 DROP CONSTRAINT 누구 -- lost: constraint 누구 on 영업.주문
ALTER TABLE 주문 DROP CONSTRAINT 누구, ADD CONSTRAINT 누구 FOREIGN KEY (고객) REFERENCES 고객 NOT VALID -- constraint 누구 on 영업.주문: validated was True, is False
ALTER TABLE 고객 DISABLE TRIGGER ALL -- constraint 등급_있음 on 영업.고객: triggers: lost
DROP TRIGGER 손대면 ON 고객 -- lost: trigger 손대면 on 영업.고객
ALTER TABLE 고객 DISABLE TRIGGER 손대면 -- trigger 손대면 on 영업.고객: enabled was 'A', is 'D'
COMMENT ON TRIGGER 손대면 ON 고객 IS NULL -- trigger 손대면 on 영업.고객: comment was '감시'
DROP RULE 지우면 ON 고객 -- lost: rule 지우면 on 영업.고객
ALTER TABLE 고객 DISABLE RULE 지우면 -- rule 지우면 on 영업.고객: enabled was 'O', is 'D'
COMMENT ON RULE 지우면 ON 고객 IS NULL -- rule 지우면 on 영업.고객: comment was '규칙'
DROP RULE 딴_규칙 ON 어미 -- lost: rule 딴_규칙 on 영업.어미
DROP POLICY "제 것만" ON 고객 -- lost: policy 제 것만 on 영업.고객
ALTER POLICY "제 것만" ON 고객 TO PUBLIC -- policy 제 것만 on 영업.고객: roles: lost ['@읽는이'], new ['PUBLIC']
ALTER POLICY "제 것만" ON 고객 USING (true) -- policy 제 것만 on 영업.고객: using was
COMMENT ON POLICY "제 것만" ON 고객 IS NULL -- policy 제 것만 on 영업.고객: comment was '비밀'
DROP STATISTICS 함께 -- lost: statistics 영업.함께 on 영업.고객
ALTER STATISTICS 함께 RENAME TO 함께1 -- new: statistics 영업.함께1 on 영업.고객
ALTER STATISTICS 함께 SET STATISTICS -1 -- statistics 영업.함께 on 영업.고객: target was 90, is -1
ALTER STATISTICS 함께 OWNER TO @주인 -- statistics 영업.함께 on 영업.고객: owner was 'postgres'
COMMENT ON STATISTICS 함께 IS NULL -- statistics 영업.함께 on 영업.고객: comment was '통계'
DELETE FROM pg_statistic_ext_data -- not analyzed any more: statistics 영업.함께
DELETE FROM pg_statistic WHERE starelid = '고객'::regclass -- not analyzed any more: 영업.고객.금액
ALTER PUBLICATION 알림 DROP TABLE 고객 -- lost: publication 알림 of 영업.고객
ALTER PUBLICATION 알림 SET TABLE 고객 (번호, 이름) -- publication 알림 of 영업.고객: filter was '(번호 > 5)', is None
ALTER PUBLICATION 알림 SET TABLE 고객 WHERE (번호 > 5) -- publication 알림 of 영업.고객: columns was ['번호', '이름'], is None
CREATE PUBLICATION 모두 FOR TABLES IN SCHEMA 영업 -- new: published by 모두: 영업.고객
ALTER SEQUENCE 고객_줄_seq OWNED BY NONE -- relation 영업.고객_줄_seq: owned by was '영업.고객.줄 a', is None
ALTER SEQUENCE 고객_번호_seq CACHE 1 -- relation 영업.고객_번호_seq: sequence was
ALTER SEQUENCE 고객_줄_seq RENAME TO 고객_줄_seq1 -- lost: relation 영업.고객_줄_seq (
REVOKE USAGE ON SEQUENCE 고객_줄_seq FROM @읽는이 -- relation 영업.고객_줄_seq: grants: lost ['USAGE to @읽는이
COMMENT ON SEQUENCE 고객_줄_seq IS NULL -- relation 영업.고객_줄_seq: comment was '차례'
DROP VIEW "딴 곳".둘째 -- lost: relation 딴 곳.둘째
CREATE OR REPLACE VIEW "딴 곳".둘째 AS SELECT 이름 FROM 금고객 LIMIT 1 -- rule _RETURN on 딴 곳.둘째: definition was
ALTER VIEW 금고객 OWNER TO @주인 -- relation 영업.금고객: owner was 'postgres'
ALTER VIEW 금고객 RESET (security_barrier) -- relation 영업.금고객: options: lost ['security_barrier=true']
REVOKE SELECT (이름) ON 금고객 FROM @읽는이 -- column 영업.금고객.이름: grants: lost ['SELECT to @읽는이 by postgres']
REVOKE SELECT ON "딴 곳".둘째 FROM @읽는이 -- relation 딴 곳.둘째: grants: lost ['SELECT to @읽는이 by postgres']
ALTER VIEW 금고객 ALTER 이름 DROP DEFAULT -- column 영업.금고객.이름: default was
COMMENT ON VIEW 금고객 IS NULL -- relation 영업.금고객: comment was '귀한 손님'
COMMENT ON COLUMN 금고객.이름 IS NULL -- column 영업.금고객.이름: comment was '존함'
DROP TRIGGER 대신 ON 금고객 -- lost: trigger 대신 on 영업.금고객
DROP MATERIALIZED VIEW 합계 -- lost: relation 영업.합계
DROP INDEX 합계_하나 -- lost: index 영업.합계_하나 on 영업.합계
REFRESH MATERIALIZED VIEW 합계 WITH NO DATA -- relation 영업.합계: populated was True, is False
DROP FUNCTION "한 줄"(고객) -- lost: function 영업.한 줄(영업.고객)
ALTER TABLE "줄을 가진" DROP COLUMN 누가 -- lost: column 누가 of table 영업.줄을 가진 depends on type 영업.고객[]
CREATE TABLE 고객_old () -- new: present: table 영업.고객_old
CREATE INDEX pkey1 ON 등급 (코드) -- new: present: index 영업.pkey1
CREATE TYPE 고객_꼴 AS ENUM () -- new: present: type 영업.고객_꼴
CREATE FUNCTION 남은() RETURNS int LANGUAGE sql AS 'SELECT 1' -- new: present: function 영업.남은()
ALTER TABLE 등급 ADD CONSTRAINT 남은 CHECK (true) -- new: present: constraint 남은 on table 영업.등급
CREATE SCHEMA safecopy; CREATE TABLE safecopy.고객__safecopy_7_ab12 () -- new: present: table safecopy.고객__safecopy_7_ab12
