-- The demo's tables: a Korean sales system and the warehouse that copies it. Everything is computed from
-- the row's number, so that each run, on each server, makes the same rows.

-- name: settings
-- The text form of a row depends on these; both sides are compared under the same.
SELECT set_config('TimeZone', 'UTC', false), set_config('DateStyle', 'ISO, YMD', false),
       set_config('IntervalStyle', 'postgres', false), set_config('bytea_output', 'hex', false),
       set_config('extra_float_digits', '1', false), set_config('synchronous_commit', 'off', false)

-- name: database_erp
CREATE DATABASE erp

-- name: database_dw
CREATE DATABASE dw

-- name: schema_of_source
CREATE SCHEMA 영업

-- name: schema_of_target
CREATE SCHEMA 분석

-- name: search_path
-- Below, tables go by their bare names: those of the source live in 영업, those of the target in 분석.
SELECT set_config('search_path', quote_ident(%(schema)s::text) || ', 공용, pg_catalog', false)

-- name: common
-- What both databases must have in common, because columns of both are of these types.
CREATE SCHEMA 공용;
CREATE TYPE 공용.고객등급 AS ENUM ('일반', '우수', '최우수', '휴면');
CREATE TABLE 공용.낱말 (번호 int PRIMARY KEY, 성 text, 이름 text, 시도 text, 구 text, 상품 text, 단가 numeric(12,2), 요청 text);
INSERT INTO 공용.낱말
SELECT 번호,
       (ARRAY['김','이','박','최','정','강','조','윤','장','임','한','오','서','신','권','황','안','송','남궁','제갈'])[mod(번호, 20) + 1],
       (ARRAY['민','서','지','하','도','예','현','수','은','주','영','태'])[mod(번호, 12) + 1]
           || (ARRAY['준','연','우','윤','호','진','빈','아','희','경','슬','솔','결'])[mod(번호 * 7, 13) + 1],
       (ARRAY['서울특별시','부산광역시','대구광역시','인천광역시','광주광역시','대전광역시','울산광역시','세종특별자치시','경기도',
              '강원특별자치도','충청북도','충청남도','전북특별자치도','전라남도','경상북도','경상남도','제주특별자치도'])[mod(번호, 17) + 1],
       (ARRAY['중구','동구','서구','남구','북구','강남구','해운대구','수성구','연수구','유성구','팔달구'])[mod(번호, 11) + 1],
       (ARRAY['한라봉 5kg','간고등어 2손','유기농 현미 10kg','참기름 350mL','순창 고추장 1kg','제주 흑돼지 삼겹살 600g','무선 키보드',
              '백자 찻잔 2인조','한지 공책 B5','떡볶이떡 2kg','전기 주전자 1.7L','겨울 이불 (퀸)'])[mod(번호, 12) + 1]
           || (ARRAY['',' · 선물 포장',' (묶음)',' / 당일 배송'])[mod(번호, 4) + 1],
       (mod(번호 * 7919, 997) + 3) * 100 + CASE mod(번호, 5) WHEN 0 THEN 0.50 ELSE 0 END,
       -- Text as people, and their programs, really leave it: each of these has broken a copy.
       (ARRAY[NULL, '', 'NULL', '\N', '\.', E'\\.\n다음 줄', E'탭\t탭', E'줄\n바꿈', E'윈도우\r\n줄바꿈', E'역슬래시 \\ 끝 \\',
              '"큰따옴표", ''작은따옴표''', '쉼표, 세미콜론; 등호=', '부재 시 경비실에 맡겨 주세요 😀', '👩‍👩‍👧 가족 · 🇰🇷', '똠방각하 펲시콜라 뷁',
              normalize('조합형 한글 각하', NFD), '끝에 빈칸   ', '   앞에 빈칸', '전각　공백', E'제어\x01문자', '문 앞에 놓아 주세요',
              '배송 전 연락 바랍니다', '「낫표」 — 줄표 … 말줄임표', 'ﾊﾝｶｸ 半角 全角ＡＢＣ'])[mod(번호, 24) + 1]
FROM generate_series(0, 32759) AS 번호

-- name: tables
CREATE TABLE 고객 (
    고객번호 bigint PRIMARY KEY,
    이름 text NOT NULL,
    등급 공용.고객등급 NOT NULL,
    전화번호 varchar(20),
    이메일 text UNIQUE,
    주소 text,
    생년월일 date,
    가입일시 timestamptz NOT NULL,
    수신동의 boolean,
    관심분야 text[],
    프로필 jsonb,
    비고 text
);
CREATE TABLE 주문_내역 (
    주문번호 bigint PRIMARY KEY,
    고객번호 bigint NOT NULL,
    주문일시 timestamptz NOT NULL,
    상품명 text NOT NULL,
    수량 integer NOT NULL,
    단가 numeric(12,2) NOT NULL,
    배송완료 boolean,
    결제 jsonb,
    서명 bytea,
    "요청 사항" text
);
CREATE INDEX ON 주문_내역 (고객번호);
-- Its name is 63 bytes long: one more syllable, and PostgreSQL would cut it without a word.
CREATE TABLE 월별지역별상품군별매출실적및재고현황집계표 (
    기준월 date,
    지역 text,
    상품군 varchar(30),
    매출액 numeric(12,2),
    재고추이 integer[],
    목표달성률 double precision,
    마감여부 boolean,
    비고 text,
    PRIMARY KEY (기준월, 지역, 상품군)
);
COMMENT ON TABLE 고객 IS '고객 원장';
COMMENT ON TABLE 주문_내역 IS '주문 한 줄에 한 건';
COMMENT ON TABLE 월별지역별상품군별매출실적및재고현황집계표 IS '이름이 꼭 63바이트인 표'

-- name: customers
INSERT INTO 고객
SELECT n,
       낱말.성 || 낱말.이름,
       (ARRAY['일반', '일반', '일반', '우수', '최우수', '휴면'])[mod(n, 6) + 1]::공용.고객등급,
       CASE WHEN mod(n, 10) > 0 THEN '010-' || lpad(mod(n * 31, 10000)::text, 4, '0') || '-' || lpad(mod(n * 17, 10000)::text, 4, '0') END,
       CASE WHEN mod(n, 7) > 0 THEN 'user' || n || '@example.com' END,
       낱말.시도 || ' ' || 낱말.구 || ' 한글로 ' || mod(n, 300) + 1,
       CASE WHEN mod(n, 50) > 0 THEN date '1950-01-01' + mod(n * 13, 20000)::int END,
       timestamptz '2015-01-01 00:00:00+09' + mod(n * 7919, 340000000) * interval '1 second',
       CASE mod(n, 3) WHEN 0 THEN true WHEN 1 THEN false END,
       CASE mod(n, 4) WHEN 0 THEN ARRAY['책', '여행'] WHEN 1 THEN ARRAY['요리, 살림', NULL, '"수집"'] WHEN 2 THEN '{}' END,
       CASE WHEN mod(n, 5) > 0 THEN jsonb_build_object('적립금', mod(n * 3, 50000), '메모', 낱말.요청, '태그', jsonb_build_array('vip', mod(n, 9))) END,
       낱말.요청
FROM generate_series(1, %(rows)s::bigint) AS n
JOIN 공용.낱말 ON 낱말.번호 = mod(n * 7, 32760)

-- name: orders
INSERT INTO 주문_내역
SELECT n,
       mod(n * 7919, %(customers)s) + 1,
       timestamptz '2024-01-01 00:00:00+09' + n * interval '173 seconds' + mod(n, 1000) * interval '1 microsecond',
       낱말.상품,
       mod(n, 9) + 1,
       낱말.단가,
       CASE mod(n, 6) WHEN 5 THEN NULL ELSE mod(n, 6) > 1 END,
       CASE WHEN mod(n, 4) > 0 THEN jsonb_build_object('수단', '카드', '할부', mod(n, 12), '승인', lpad((n * 37)::text, 10, '0')) END,
       CASE WHEN mod(n, 8) = 0 THEN decode(md5(n::text), 'hex') WHEN mod(n, 8) = 1 THEN ''::bytea END,
       낱말.요청
FROM generate_series(1, %(rows)s::bigint) AS n
JOIN 공용.낱말 ON 낱말.번호 = mod(n * 11, 32760)

-- name: sums
INSERT INTO 월별지역별상품군별매출실적및재고현황집계표
SELECT 기준월::date,
       지역,
       '상품군 ' || chr(44032 + 상품군 * 588),
       mod(extract(epoch FROM 기준월)::bigint / 86400 * 상품군, 9999999) + 0.25,
       CASE WHEN mod(상품군, 5) > 0 THEN ARRAY[상품군, NULL, -상품군, mod(상품군 * 7919, 1000)] END,
       CASE mod(상품군, 7) WHEN 5 THEN 'NaN' WHEN 6 THEN 'Infinity' ELSE 상품군 / 7.0 END,
       기준월 < date '2026-01-01',
       (SELECT 요청 FROM 공용.낱말 WHERE 번호 = 상품군)
FROM generate_series(timestamp '2022-01-01', timestamp '2026-06-01', interval '1 month') AS 기준월,
     (SELECT DISTINCT 시도 FROM 공용.낱말) AS 시도(지역),
     generate_series(0, 11) AS 상품군

-- name: old_rows
-- What the target held before: yesterday's rows, fewer and with other values, one of them deleted since.
UPDATE 고객 SET 이름 = '(옛) ' || 이름, 등급 = '일반' WHERE mod(고객번호, 3) = 0;
INSERT INTO 고객 (고객번호, 이름, 등급, 가입일시) VALUES (-1, '탈퇴한 고객', '휴면', '2014-12-31 15:00:00+00');
UPDATE 주문_내역 SET 배송완료 = false;
DELETE FROM 월별지역별상품군별매출실적및재고현황집계표 WHERE 기준월 >= date '2025-01-01'

-- name: finish
ANALYZE 고객, 주문_내역, 월별지역별상품군별매출실적및재고현황집계표

-- name: contents
-- Each table's rows and a sum of hashes over all of them, whatever their order; nothing of SafeCopy is in it.
SELECT '고객', count(*), md5(sum(('x' || left(md5(t::text), 16))::bit(64)::bigint)::text || sum(('x' || right(md5(t::text), 16))::bit(64)::bigint)::text)
FROM 고객 AS t
UNION ALL
SELECT '주문_내역', count(*), md5(sum(('x' || left(md5(t::text), 16))::bit(64)::bigint)::text || sum(('x' || right(md5(t::text), 16))::bit(64)::bigint)::text)
FROM 주문_내역 AS t
UNION ALL
SELECT '월별지역별상품군별매출실적및재고현황집계표', count(*), md5(sum(('x' || left(md5(t::text), 16))::bit(64)::bigint)::text || sum(('x' || right(md5(t::text), 16))::bit(64)::bigint)::text)
FROM 월별지역별상품군별매출실적및재고현황집계표 AS t

-- name: counts
SELECT '고객', count(*) FROM 고객
UNION ALL
SELECT '주문_내역', count(*) FROM 주문_내역
UNION ALL
SELECT '월별지역별상품군별매출실적및재고현황집계표', count(*) FROM 월별지역별상품군별매출실적및재고현황집계표

-- name: copying
-- The running COPY of each table: out of it on the source, into a staging table named after it on the target.
SELECT copied.name, progress.tuples_processed
FROM (VALUES ('고객'), ('주문_내역'), ('월별지역별상품군별매출실적및재고현황집계표')) AS copied (name)
JOIN pg_stat_activity AS activity
  ON activity.application_name LIKE 'safecopy:%'
 AND (activity.query LIKE '%."' || copied.name || '"%' OR activity.query LIKE '%"' || left(copied.name, 12) || '%__safecopy_%')
JOIN pg_stat_progress_copy AS progress USING (pid)
WHERE activity.query LIKE 'COPY %'

-- name: new_edition
-- The scenes' news: every hundredth customer tells which edition of the table this is.
UPDATE 고객 SET 비고 = %(edition)s WHERE mod(고객번호, 100) = 0

-- name: edition
-- The editions there are, a mixture of them as well; 'as copied' for what was there before the first.
SELECT string_agg(DISTINCT CASE WHEN 비고 LIKE '제_판' THEN 비고 ELSE 'as copied' END, ' + ')
FROM 고객 WHERE mod(고객번호, 100) = 0

-- name: reading
-- A long report of another user, which no publish may disturb.
LOCK TABLE 고객 IN SHARE MODE

-- name: remains
-- What runs have left: staging tables, and sessions in this database.
SELECT (SELECT count(*) FROM pg_class WHERE relkind = 'r' AND strpos(relname, '__safecopy_') > 0),
       (SELECT count(*) FROM pg_stat_activity
        WHERE application_name = ANY (%(names)s) AND datname = current_database())
