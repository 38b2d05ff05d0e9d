-- Rows for the shop: `:rows` rentals, and of the others in proportion. Another `:seed` gives the same keys, with
-- other values here and there; some rows that nobody refers to have keys of their seed's own.
SET search_path = 대여점;
INSERT INTO 언어 (번호, 이름) OVERRIDING SYSTEM VALUE
    SELECT g, (ARRAY['한국어', '영어', '일본어', '프랑스어', '중국어', '에스파냐어'])[g] FROM generate_series(1, 6) g;
INSERT INTO 배우 (번호, 성, 이름, 고침)
    SELECT g, (ARRAY['김', '이', '박', '최', '정'])[1 + g % 5], '배우' || g + CASE g % 7 WHEN 0 THEN :seed ELSE 0 END,
           '2026-01-01 09:00+09'::timestamptz + g * interval '1 hour'
    FROM generate_series(1, 10 + :rows / 4) g;
INSERT INTO 영화 (번호, 제목, 줄거리, 나온해, 언어, 원어, 등급, 대여료, 특전, 덧붙임, 표지, 고침)
    SELECT g, '영화 ' || g, CASE WHEN g % 4 > 0 THEN repeat('이야기 ' || g || E'\t줄\n', 1 + g % 40) END, 1960 + g % 60, 1 + g % 6,
           CASE WHEN g % 3 = 0 THEN 1 + (g + :seed) % 6 END, (enum_range(NULL::관람등급))[1 + g % 4],
           round(((g * 37 + CASE g % 5 WHEN 0 THEN :seed ELSE 0 END) % 900) / 100.0, 2),
           CASE WHEN g % 6 > 0 THEN ARRAY['예고편', '그"따옴표', NULL] END, jsonb_build_object('순위', g, '비고', NULL, '씨', g % 11 * :seed),
           decode(md5(g::text), 'hex'), '2026-01-01 09:00+09'::timestamptz + g * interval '1 minute'
    FROM generate_series(1, 20 + :rows / 2) g;
INSERT INTO 영화_배우
    SELECT f, 1 + (f * 7 + k * 3) % 10, CASE WHEN f % 9 = 0 THEN '단역 ' || :seed ELSE '역 ' || k END
    FROM generate_series(1, 20 + :rows / 2) f, generate_series(0, 1 + (f + :seed) % 2) k;
INSERT INTO 매장 SELECT g, '매장 ' || g, ROW('서울', '동 ' || g)::주소, '09:00'::time + g * interval '7 min', point(g, -g - 0.25 * :seed)
    FROM generate_series(1, 3) g;
INSERT INTO 직원 SELECT g, 1 + g % 3, '직원 ' || g, decode(repeat('00ff5c', g), 'hex'), (g + :seed) % 4 > 0, NULLIF(g / 2, 0)
    FROM generate_series(1, 8) g;
INSERT INTO 고객 SELECT g, 1 + g % 3, '고객 ' || g, NULLIF('g' || g % 13 || '@example.kr', 'g0@example.kr'), g % 8 > 0,
    '2025-06-01 00:00+09'::timestamptz + g * interval '7 hours', jsonb_build_object('좋아함', ARRAY[g % 3, g % 5]), (g * 1.10 + :seed) / 3
    FROM generate_series(1, 10 + :rows / 3) g;
INSERT INTO 재고 SELECT g, 1 + g % 20, 1 + (g + CASE WHEN g % 10 = 0 THEN :seed ELSE 0 END) % 3 FROM generate_series(1, :rows) g;
INSERT INTO 대여 OVERRIDING SYSTEM VALUE
    SELECT g, 1 + g % :rows, 1 + g % 10, NULLIF(1 + (g + :seed) % 9, 9), '2026-01-10 10:00+09'::timestamptz + g * interval '11 hours',
           CASE WHEN g % 5 > 0 THEN '2026-01-12 10:00+09'::timestamptz + g * interval '12 hours' END
    FROM generate_series(1, :rows) g;
INSERT INTO 결제
    SELECT g + CASE WHEN g % 15 = 0 THEN 100000 * :seed ELSE 0 END, 1 + g % 10, CASE WHEN g % 6 > 0 THEN 1 + g % :rows END,
           (g * 13 % 500) / 10.0, '2025-12-20 12:00+09'::timestamptz + g * interval '31 hours'
    FROM generate_series(1, :rows * 2) g;
INSERT INTO "회원 등급.Grade""s"
    SELECT NULLIF(g, 3), '등급 ' || g % 4, g * 0.01 + :seed, int4range(g * 10, g * 10 + 9) FROM generate_series(1, 12) g;
INSERT INTO 영화대여점회원등급변경이력보관용기록표하나
    SELECT 1 + g % 10, '2026-02-01 00:00+09'::timestamptz + (g + 1000 * CASE WHEN g % 4 = 0 THEN :seed ELSE 0 END) * interval '1 day', '등급 ' || g % 4
    FROM generate_series(1, :rows) g;
-- As after a copy: some sequences are far beyond their column, the others have never been drawn from.
SELECT setval(pg_get_serial_sequence('대여점.' || t, '번호'), 100000) FROM unnest(ARRAY['영화', '직원', '고객']) t;
REFRESH MATERIALIZED VIEW 매출;
ANALYZE
