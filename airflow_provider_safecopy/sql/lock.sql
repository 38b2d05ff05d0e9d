-- The token of a run, and the fence inside the publishing transaction.

-- name: ensure
INSERT INTO safecopy.lock (name) VALUES (%(name)s) ON CONFLICT DO NOTHING

-- name: draw
-- The newest run always gets the next token; whoever held an older one is fenced out by it.
UPDATE safecopy.lock
SET token = token + 1, lease_id = %(lease_id)s::uuid, owner_key = %(owner_key)s, granted_at = clock_timestamp()
WHERE name = %(name)s
RETURNING token

-- name: fence
-- No row: fenced out. The row stays locked until COMMIT, so that no newer token is drawn meanwhile.
SELECT token FROM safecopy.lock
WHERE name = %(name)s AND token = %(token)s AND lease_id = %(lease_id)s::uuid
FOR KEY SHARE
