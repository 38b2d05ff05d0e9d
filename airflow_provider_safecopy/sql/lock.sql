-- The living lock. Liveness, ownership and token are in one row, so that one UPDATE decides about all of them;
-- only members' progress lies beside it. Every change of owner or attempt changes key columns and therefore waits
-- for the run that publishes under FOR KEY SHARE. All time is the server's. Order of locking: lock row, then member row.

-- name: settings
-- In front of every statement below, in one message and hence one transaction: nothing is left behind in a session
-- that a pooler hands to the next client, and no default of the role's has a say.
SET TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE;
SET LOCAL search_path = pg_catalog; SET LOCAL quote_all_identifiers = off;
SET LOCAL lock_timeout = %(lock_timeout)s;
SET LOCAL statement_timeout = %(statement_timeout)s;

-- name: ensure
INSERT INTO safecopy.lock (name) VALUES (%(name)s) ON CONFLICT DO NOTHING

-- name: ensure_all
INSERT INTO safecopy.lock (name) SELECT unnest(%(names)s::text[]) ON CONFLICT DO NOTHING

-- name: acquire
-- Grant, join, supersede or take over. No row: busy, or no such name. `dead` holds attempts that are proven to be
-- gone; an attempt's id is random, so that naming it is as good as comparing the whole row.
WITH g AS (
    UPDATE safecopy.lock l SET
        token = CASE WHEN l.owner_key = %(owner_key)s THEN l.token ELSE l.token + 1 END,
        lease_id = CASE WHEN l.owner_key = %(owner_key)s THEN COALESCE(l.lease_id, %(lease_id)s::uuid)
                        ELSE %(lease_id)s::uuid END,
        members = CASE WHEN l.owner_key = %(owner_key)s THEN l.members ELSE '{}'::jsonb END
            || jsonb_build_object(%(member_key)s::text, jsonb_build_object(
                   'id', %(attempt)s::text, 'try', %(try)s::int, 'detached', %(detached)s::bool)),
        granted_at = CASE WHEN l.owner_key = %(owner_key)s THEN l.granted_at ELSE clock_timestamp() END,
        alive_at = clock_timestamp(),
        stale_after = GREATEST(CASE WHEN l.owner_key = %(owner_key)s THEN l.stale_after END, %(stale_after)s::interval),
        due_at = GREATEST(CASE WHEN l.owner_key = %(owner_key)s THEN l.due_at END,
                          clock_timestamp() + %(stale_after)s::interval),
        -- The session is not the one the client was told of: a pooler is in between, where a living client has none.
        crash_grace = CASE WHEN pg_backend_pid() = %(backend)s THEN %(crash_grace)s::interval END,
        last_kind = CASE
            WHEN l.owner_key = %(owner_key)s AND l.members ? %(member_key)s::text THEN 'supersede'
            WHEN l.owner_key = %(owner_key)s THEN 'join'
            WHEN l.lease_id IS NULL THEN 'grant'
            WHEN NOT EXISTS (SELECT FROM jsonb_each(l.members) e WHERE e.value->>'id' <> ALL (%(dead)s::text[]))
                THEN 'takeover-dead'
            WHEN l.due_at < clock_timestamp() THEN 'takeover-stale'
            ELSE 'takeover-crash' END,
        prev_owner_key = CASE WHEN l.owner_key = %(owner_key)s THEN l.prev_owner_key ELSE l.owner_key END,
        prev_owner = CASE WHEN l.owner_key = %(owner_key)s THEN l.prev_owner ELSE l.owner END,
        prev_token = l.token, prev_members = l.members,
        owner_key = %(owner_key)s, owner = %(owner)s::jsonb
    WHERE l.name = %(name)s AND l.token >= 0 AND CASE
        -- The same run: another task, a higher try of the same one, or a try whose like is overdue or gone.
        WHEN l.owner_key = %(owner_key)s THEN
            COALESCE((l.members->%(member_key)s::text->>'try')::int, -1) < %(try)s
            OR l.due_at < clock_timestamp()
            OR (l.members->%(member_key)s::text->>'id') = ANY (%(dead)s::text[])
        -- Granted in the time to come: the server's clock has been set back since, and the rest began before that.
        WHEN l.lease_id IS NULL THEN l.not_before <= clock_timestamp() OR l.granted_at > clock_timestamp()
        -- No progress within the holder's own promise.
        WHEN l.due_at < clock_timestamp() THEN true
        WHEN NOT EXISTS (SELECT FROM jsonb_each(l.members) e WHERE e.value->>'id' <> ALL (%(dead)s::text[])) THEN true
        -- No heartbeat, and no session of any member; a detached member has none while it lives. (The function below
        -- pg_stat_activity: its view takes as long to plan as all the rest.)
        WHEN l.alive_at + l.crash_grace < clock_timestamp() THEN NOT EXISTS (
            SELECT FROM jsonb_each(l.members) e
            WHERE (e.value->>'detached')::bool
               OR EXISTS (SELECT FROM pg_stat_get_activity(NULL) a
                          WHERE a.application_name = 'safecopy:' || (e.value->>'id')))
        ELSE false END
    RETURNING l.*
), displaced AS (
    -- As they were before this statement: whose processes are to be ended now.
    SELECT COALESCE(jsonb_object_agg(m.member_id, m.place), '{}') AS places
    FROM g JOIN safecopy.member m ON m.name = g.name
    WHERE m.token < g.token OR g.last_kind = 'supersede' AND m.token = g.token AND m.member_key = %(member_key)s
), swept AS (
    DELETE FROM safecopy.member m USING g WHERE m.name = g.name AND m.token < g.token
), joined AS (
    INSERT INTO safecopy.member (name, token, member_key, member_id, try_number, place,
                                 joined_at, heartbeat_at, progressed_at)
    SELECT g.name, g.token, %(member_key)s, %(attempt)s::uuid, %(try)s, %(place)s::jsonb,
           g.alive_at, g.alive_at, g.alive_at FROM g
    ON CONFLICT (name, token, member_key) DO UPDATE SET
        member_id = EXCLUDED.member_id, try_number = EXCLUDED.try_number, place = EXCLUDED.place,
        joined_at = EXCLUDED.joined_at, heartbeat_at = EXCLUDED.heartbeat_at,
        progressed_at = EXCLUDED.progressed_at, phase = 0, count = 0
    RETURNING member_id
), told AS (
    INSERT INTO safecopy.lock_event (name, token, kind, owner_key, owner, member_key, attempt, prev_owner_key, detail)
    SELECT g.name, g.token, g.last_kind, g.owner_key, g.owner, %(member_key)s, %(attempt)s::uuid,
           CASE WHEN g.last_kind LIKE 'takeover%%' THEN g.prev_owner_key END,
           CASE WHEN g.last_kind LIKE 'takeover%%' THEN jsonb_build_object('from', g.prev_owner) END
    FROM g WHERE NOT %(passing)s OR g.last_kind LIKE 'takeover%%'
)
SELECT g.token, g.lease_id, g.last_kind AS kind, g.prev_token, g.prev_members, g.prev_owner_key, g.prev_owner,
       d.places, extract(epoch FROM g.due_at - clock_timestamp()) AS remaining
FROM g, displaced d, joined

-- name: heartbeat
-- That we live, always; that we may go on, only when (phase, count) grew. No row: fenced, stop now.
WITH l AS (
    UPDATE safecopy.lock l SET
        alive_at = clock_timestamp(),
        due_at = CASE WHEN (%(phase)s::int, %(count)s::bigint) > (m.phase, m.count)
            THEN GREATEST(l.due_at, clock_timestamp() + l.stale_after) ELSE l.due_at END
    FROM safecopy.member m
    WHERE m.name = %(name)s AND m.token = %(token)s AND m.member_key = %(member_key)s
      AND m.member_id = %(attempt)s::uuid
      AND l.name = %(name)s AND l.token = %(token)s AND l.lease_id = %(lease_id)s::uuid
      AND l.members->%(member_key)s::text->>'id' = %(attempt)s::text
    RETURNING l.token, l.due_at
), m AS (
    UPDATE safecopy.member m SET
        heartbeat_at = clock_timestamp(),
        progressed_at = CASE WHEN (%(phase)s::int, %(count)s::bigint) > (m.phase, m.count)
                             THEN clock_timestamp() ELSE m.progressed_at END,
        count = CASE WHEN (%(phase)s::int, %(count)s::bigint) > (m.phase, m.count)
                     THEN %(count)s::bigint ELSE m.count END,
        phase = GREATEST(m.phase, %(phase)s::int)
    FROM l WHERE m.name = %(name)s AND m.token = l.token AND m.member_key = %(member_key)s
             AND m.member_id = %(attempt)s::uuid
)
SELECT extract(epoch FROM due_at - clock_timestamp()) AS remaining FROM l

-- name: release
-- The last member frees the lock; its token stays. A member that leaves has done something: the run lives on.
WITH r AS (
    UPDATE safecopy.lock l SET
        members = l.members - %(member_key)s::text,
        lease_id = CASE WHEN l.members - %(member_key)s::text = '{}'::jsonb THEN NULL ELSE l.lease_id END,
        owner_key = CASE WHEN l.members - %(member_key)s::text = '{}'::jsonb THEN NULL ELSE l.owner_key END,
        owner = CASE WHEN l.members - %(member_key)s::text = '{}'::jsonb THEN NULL ELSE l.owner END,
        due_at = CASE WHEN l.members - %(member_key)s::text = '{}'::jsonb THEN l.due_at
                      ELSE GREATEST(l.due_at, clock_timestamp() + l.stale_after) END,
        not_before = CASE WHEN l.members - %(member_key)s::text = '{}'::jsonb
                          THEN l.granted_at + %(at_least)s::interval ELSE l.not_before END
    WHERE l.name = %(name)s AND l.token = %(token)s AND l.lease_id = %(lease_id)s::uuid
      AND l.members->%(member_key)s::text->>'id' = %(attempt)s::text
    RETURNING l.token, l.lease_id IS NULL AS freed
), m AS (
    DELETE FROM safecopy.member m USING r
    WHERE m.name = %(name)s AND m.token = r.token AND m.member_key = %(member_key)s
), e AS (
    INSERT INTO safecopy.lock_event (name, token, kind, owner_key, owner, member_key, attempt)
    SELECT %(name)s, r.token, CASE WHEN freed THEN 'release' ELSE 'leave' END, %(owner_key)s, %(owner)s::jsonb,
           %(member_key)s, %(attempt)s::uuid FROM r WHERE NOT %(passing)s
)
SELECT freed FROM r

-- name: fence
-- Inside the publishing transaction. No row: fenced out. Both rows stay locked until COMMIT, so that neither the
-- run nor the attempt is replaced meanwhile.
SELECT l.token FROM safecopy.lock l JOIN safecopy.member m ON m.name = l.name AND m.token = l.token
WHERE l.name = %(name)s AND l.token = %(token)s AND l.lease_id = %(lease_id)s::uuid
  AND m.member_key = %(member_key)s AND m.member_id = %(attempt)s::uuid
FOR KEY SHARE OF l, m

-- name: terminate
-- End the sessions of holders that may be displaced now: one of them may hold the lock's row in an open publish. All
-- conditions are asked again here, so that a holder that has just revived is spared.
SELECT a.pid, pg_terminate_backend(a.pid) AS ended
FROM safecopy.lock l CROSS JOIN LATERAL jsonb_each(l.members) e
JOIN pg_stat_activity a ON a.application_name = 'safecopy:' || (e.value->>'id')
WHERE l.name = %(name)s AND a.pid <> pg_backend_pid() AND e.value->>'id' <> %(attempt)s
  AND CASE
      WHEN l.owner_key = %(owner_key)s THEN e.key = %(member_key)s
          AND ((e.value->>'try')::int < %(try)s OR l.due_at < clock_timestamp()
               OR e.value->>'id' = ANY (%(dead)s::text[]))
      ELSE %(any_holder)s::bool OR l.due_at < clock_timestamp()
          OR NOT EXISTS (SELECT FROM jsonb_each(l.members) o WHERE o.value->>'id' <> ALL (%(dead)s::text[])) END
  AND (pg_has_role(a.usesysid, 'USAGE') OR pg_has_role('pg_signal_backend', 'USAGE'))
  AND ((SELECT rolsuper FROM pg_roles WHERE rolname = current_user)
       OR NOT (SELECT rolsuper FROM pg_roles WHERE oid = a.usesysid))

-- name: end_sessions
-- What displaced attempts still have on this server.
SELECT a.pid, pg_terminate_backend(a.pid) AS ended FROM pg_stat_activity a
WHERE a.application_name = ANY (%(names)s::text[]) AND a.pid <> pg_backend_pid()
  AND (pg_has_role(a.usesysid, 'USAGE') OR pg_has_role('pg_signal_backend', 'USAGE'))
  AND ((SELECT rolsuper FROM pg_roles WHERE rolname = current_user)
       OR NOT (SELECT rolsuper FROM pg_roles WHERE oid = a.usesysid))

-- name: connected
SELECT EXISTS (SELECT FROM pg_stat_get_activity(NULL) a WHERE a.application_name = ANY (%(names)s::text[])) AS connected

-- name: revoke
-- Fence one's own attempt out: whatever it does later, it does not publish.
WITH l AS (
    -- Current, and so until this is committed: a takeover that waited for the grant may have left a member's row behind.
    SELECT token FROM safecopy.lock
    WHERE name = %(name)s AND token = %(token)s AND lease_id = %(lease_id)s::uuid
    FOR KEY SHARE
), m AS (
    UPDATE safecopy.member m SET member_id = gen_random_uuid() FROM l
    WHERE m.name = %(name)s AND m.token = l.token AND m.member_key = %(member_key)s AND m.member_id = %(attempt)s::uuid
    RETURNING m.token
)
INSERT INTO safecopy.lock_event (name, token, kind, owner_key, owner, member_key, attempt)
SELECT %(name)s, m.token, 'revoke', %(owner_key)s, %(owner)s::jsonb, %(member_key)s, %(attempt)s::uuid FROM m
RETURNING token

-- name: force_release
-- By a person, or because the holder is overdue by `overdue`, or proven to be gone. The token grows: the former holder
-- is fenced out.
WITH f AS (
    UPDATE safecopy.lock l SET
        token = l.token + 1, lease_id = NULL, owner_key = NULL, owner = NULL, members = '{}', last_kind = %(kind)s,
        prev_owner_key = l.owner_key, prev_owner = l.owner, prev_token = l.token, prev_members = l.members
    WHERE l.name = %(name)s AND l.lease_id IS NOT NULL
      AND (%(kind)s = 'force-release'
           OR l.due_at < clock_timestamp() - %(overdue)s::interval
           OR NOT EXISTS (SELECT FROM jsonb_each(l.members) e WHERE e.value->>'id' <> ALL (%(dead)s::text[])))
    RETURNING l.*
), displaced AS (
    SELECT COALESCE(jsonb_object_agg(m.member_id, m.place), '{}') AS places
    FROM f JOIN safecopy.member m ON m.name = f.name WHERE m.token < f.token
), swept AS (
    DELETE FROM safecopy.member m USING f WHERE m.name = f.name AND m.token < f.token
), e AS (
    INSERT INTO safecopy.lock_event (name, token, kind, prev_owner_key, detail)
    SELECT f.name, f.token, %(kind)s, f.prev_owner_key,
           jsonb_build_object('reason', %(reason)s::text, 'from', f.prev_owner) FROM f
)
SELECT f.token, f.prev_token, f.prev_members, f.prev_owner_key, f.prev_owner, d.places FROM f, displaced d

-- name: holders
-- Who holds what, as a contender is told; one name, or all of them. `refused` counts since the present grant. Times
-- are told as JSON, and numbers as such: whatever the role's DateStyle and extra_float_digits are.
SELECT l.name, l.token, l.lease_id, l.owner_key, l.owner,
       to_json(l.granted_at) AS granted_at, to_json(l.alive_at) AS alive_at,
       to_json(l.due_at) AS due_at, to_json(NULLIF(l.not_before, '-infinity')) AS not_before,
       extract(epoch FROM l.stale_after) AS stale_after,
       to_json(clock_timestamp()) AS asked_at,
       to_json(COALESCE(m.progressed_at, l.granted_at)) AS progressed_at,
       COALESCE(m.members, '[]') AS members,
       l.lease_id IS NOT NULL AS held, l.lease_id IS NOT NULL AND l.due_at < clock_timestamp() AS stale,
       (SELECT count(*) FROM safecopy.lock_event e
        WHERE e.name = l.name AND e.kind = 'refused' AND e.at >= l.granted_at) AS refused
FROM safecopy.lock l LEFT JOIN LATERAL (
    SELECT max(m.progressed_at) AS progressed_at,
           jsonb_agg(jsonb_build_object('key', m.member_key, 'try', m.try_number,
                                        -- Not that of its own row: another one once it was revoked.
                                        'attempt', l.members->m.member_key->>'id',
                                        'place', m.place, 'phase', m.phase, 'count', m.count,
                                        'progressed_at', m.progressed_at)
                     ORDER BY m.progressed_at DESC) AS members
    FROM safecopy.member m WHERE m.name = l.name AND m.token = l.token
) m ON true
WHERE (%(name)s::text IS NULL OR l.name = %(name)s) AND (l.lease_id IS NOT NULL OR %(name)s::text IS NOT NULL)
ORDER BY l.name

-- name: refused
-- That a contender was sent away; kept so that "skipped n times in a row" can be told.
INSERT INTO safecopy.lock_event (name, token, kind, owner_key, owner, member_key, attempt)
SELECT l.name, l.token, 'refused', %(owner_key)s, %(owner)s::jsonb, %(member_key)s, %(attempt)s::uuid
FROM safecopy.lock l WHERE l.name = %(name)s

-- name: history
SELECT to_json(e.at) AS at, e.name, e.token, e.kind, e.owner_key, e.owner, e.member_key, e.attempt::text AS attempt,
       e.prev_owner_key, e.detail
FROM safecopy.lock_event e
WHERE %(name)s::text IS NULL OR e.name = %(name)s
ORDER BY e.id DESC LIMIT %(limit)s

-- name: forget
-- What no living run needs any more. Never a row of safecopy.lock: its token must go on growing.
WITH m AS (
    DELETE FROM safecopy.member m USING safecopy.lock l WHERE m.name = l.name AND m.token < l.token RETURNING 1
), e AS (
    DELETE FROM safecopy.lock_event WHERE at < clock_timestamp() - %(keep)s::interval RETURNING 1
)
SELECT (SELECT count(*) FROM m) AS members, (SELECT count(*) FROM e) AS events

-- name: possible_row_holders
-- Sessions that may hold what an UPDATE of our rows waited for: a strong lock on a table, or rows in a transaction of
-- their own. Not the caller's own. Reads none of our tables: one of them may be locked itself.
WITH transaction AS (
    -- Several where there are savepoints; a prepared transaction is named by the first.
    SELECT virtualtransaction, array_agg(transactionid::text) AS ids FROM pg_locks
    WHERE locktype = 'transactionid' AND granted AND mode = 'ExclusiveLock' GROUP BY virtualtransaction
), holder AS (
    SELECT h.pid, h.virtualtransaction, min(h.mode) AS mode, min(c.relname::text) AS relation
    FROM pg_locks h JOIN pg_class c ON c.oid = h.relation LEFT JOIN transaction t USING (virtualtransaction)
    WHERE h.relation IN (to_regclass('safecopy.lock'), to_regclass('safecopy.member'))
      AND h.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND h.granted AND h.pid IS DISTINCT FROM pg_backend_pid()
      AND (h.mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
           OR h.mode <> 'AccessShareLock' AND t.ids IS NOT NULL)
    GROUP BY h.pid, h.virtualtransaction
)
SELECT COALESCE(h.pid, 0) AS pid, COALESCE(a.usename, x.owner)::text AS role,
       COALESCE(NULLIF(a.application_name, ''), NULLIF(a.backend_type, 'client backend')) AS application_name,
       x.gid AS prepared, a.state, h.mode, 'safecopy.' || h.relation AS relation,
       to_char(COALESCE(a.xact_start, x.prepared) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS transaction_start,
       EXTRACT(epoch FROM clock_timestamp() - COALESCE(a.xact_start, x.prepared))::float8 AS transaction_seconds,
       to_char(a.query_start AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS query_start,
       COALESCE(t.ids, '{}') AS transactions
FROM holder h
LEFT JOIN transaction t USING (virtualtransaction)
LEFT JOIN pg_prepared_xacts x ON h.pid IS NULL AND x.transaction::text = ANY (t.ids)
LEFT JOIN pg_stat_activity a ON a.pid = h.pid
WHERE a.application_name IS DISTINCT FROM current_setting('application_name')
ORDER BY 1

-- name: row_lockers
-- The transactions that locked these rows last. Where several share a row, this is the number of their group instead.
SELECT l.xmax::text AS transaction FROM safecopy.lock l WHERE l.name = ANY (%(names)s::text[])
UNION SELECT m.xmax::text FROM safecopy.member m WHERE m.name = ANY (%(names)s::text[])
