-- The receipt: the proof of a publish, committed with the data it proves.

-- name: durable
-- What was reported as published must survive a crash, whatever the role's default says.
SELECT set_config('synchronous_commit',
                  CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on'
                       ELSE current_setting('synchronous_commit') END, true)

-- name: write
INSERT INTO safecopy.receipt (lock, token, lease_id, attempt, owner_key, source, target, row_count, previous_rows, proof)
VALUES (%(lock)s, %(token)s, %(lease_id)s, %(attempt)s, %(owner_key)s, %(source)s, %(target)s,
        %(row_count)s, %(previous_rows)s, %(proof)s)

-- name: settled
SELECT count(*) FROM safecopy.receipt WHERE attempt = %(attempt)s AND token = %(token)s
