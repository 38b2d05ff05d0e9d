-- The receipt: the proof of a publish, committed with the data it proves.

-- name: durable
-- What was reported as published must survive a crash, whatever the role's default says.
SELECT set_config('synchronous_commit',
                  CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on'
                       ELSE current_setting('synchronous_commit') END, true)

-- name: relaxed
-- For the rest of the session, whatever is lost with a crash unless it is made durable as above: what is made only to
-- be dropped again. Where somebody asked for more than a flush, nothing is changed.
SELECT set_config('synchronous_commit', 'off', false) WHERE current_setting('synchronous_commit') = 'on'

-- name: write
INSERT INTO safecopy.receipt (lock, token, lease_id, attempt, owner_key, source, target, row_count, previous_rows, proof,
                              write_mode, slice, origin, inserted, updated, deleted, unchanged, watermark)
VALUES (%(lock)s, %(token)s, %(lease_id)s, %(attempt)s, %(owner_key)s, %(source)s, %(target)s,
        %(row_count)s, %(previous_rows)s, %(proof)s, %(write_mode)s, %(slice)s, %(origin)s,
        %(inserted)s, %(updated)s, %(deleted)s, %(unchanged)s, %(watermark)s)
RETURNING to_char(published_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS published_at

-- name: settled
SELECT count(*) FROM safecopy.receipt WHERE attempt = %(attempt)s AND token = %(token)s

-- name: of_slice
-- The one receipt an appended slice has.
SELECT source, origin, lock, token, attempt::text AS attempt, inserted,
       proof #>> '{digest,exported}' AS digest, (proof #>> '{bytes,exported}')::bigint AS bytes, proof ->> 'read' AS read,
       to_char(published_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS published_at
FROM safecopy.receipt
WHERE target = %(target)s AND slice = %(slice)s AND write_mode = 'append'
