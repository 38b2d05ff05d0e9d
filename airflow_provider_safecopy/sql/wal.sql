-- name: flush
-- Write all of the log so far to disk. A message of nothing; only a decoder that asks for `safecopy` sees it.
SELECT pg_catalog.pg_logical_emit_message(false, 'safecopy', '', true)

-- name: flush_until_16
-- The same where a message cannot be flushed by itself (PostgreSQL 14 to 16): a commit of it is, and waits for no standby.
SELECT pg_catalog.set_config('synchronous_commit', 'local', true),
       pg_catalog.pg_logical_emit_message(true, 'safecopy', '')
