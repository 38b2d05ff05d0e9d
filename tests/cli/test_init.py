"""`safecopy init`: the schema is made once, and a role may be let in."""

from __future__ import annotations

import pytest

from tests.cli.conftest import Command
from tests.conftest import MakeRole


def test_the_schema_is_made_and_made_again_without_harm(safecopy: Command) -> None:
    for _ in range(2):
        ran = safecopy.run("init", SAFECOPY_SOURCE=None)
        assert (ran.code, ran.err) == (0, "")
        assert "schema safecopy is ready in 127.0.0.1:" in ran.out
    assert safecopy.target.value("SELECT count(*) FROM safecopy.receipt") == 0


def test_a_role_that_may_create_nothing_can_copy_after_a_grant(safecopy: Command, role: MakeRole) -> None:
    loader = role(safecopy.target)
    rights = f'GRANT USAGE ON SCHEMA "분석" TO "{loader.role}"; GRANT SELECT, INSERT, DELETE ON "분석"."고객" TO "{loader.role}"'
    safecopy.target.execute(rights)
    refused = safecopy.copy(SAFECOPY_TARGET=loader.conninfo)
    assert refused.code == 2
    assert f"safecopy init --target … --grant {loader.role}" in refused.err
    ran = safecopy.run("init", "--grant", str(loader.role))
    assert ran.code == 0, ran.err
    assert f"granted to {loader.role}" in ran.out
    assert safecopy.copy(SAFECOPY_TARGET=loader.conninfo).code == 0
    assert safecopy.holds() == "new"


def test_several_roles_are_let_in_together_or_none_is(safecopy: Command, role: MakeRole) -> None:
    one, two = (str(role(safecopy.target).role) for _ in range(2))
    usable = "SELECT has_schema_privilege(%s, 'safecopy', 'USAGE')"
    assert safecopy.run("init", "--grant", one, "--grant", "아무도 아님").code == 5
    assert not safecopy.target.value("SELECT to_regnamespace('safecopy') IS NOT NULL")
    ran = safecopy.run("init", "--grant", one, "--grant", two, "--json")
    assert (ran.code, ran.json["grant"]) == (0, [one, two])
    assert [safecopy.target.value(usable, [each]) for each in (one, two)] == [True, True]


def test_a_role_that_is_not_there_is_an_error(safecopy: Command) -> None:
    ran = safecopy.run("init", "--grant", "아무도 아님", "--json")
    assert (ran.code, ran.json["error"]["type"]) == (5, "LockStoreError")
    assert ran.json["error"]["sqlstate"] == "42704"
    assert not safecopy.target.value("SELECT to_regnamespace('safecopy') IS NOT NULL")


def test_without_a_target_there_is_nothing_to_prepare(safecopy: Command) -> None:
    ran = safecopy.run("init", SAFECOPY_TARGET=None)
    assert ran.code == 2
    assert "Missing option '--target'" in ran.err


LAYOUT_1 = """
CREATE SCHEMA safecopy;
CREATE TABLE safecopy.lock (name text PRIMARY KEY, token bigint NOT NULL DEFAULT 0, lease_id uuid, owner_key text,
    granted_at timestamptz, UNIQUE (name, token, lease_id));
CREATE TABLE safecopy.receipt (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, lock text NOT NULL,
    token bigint NOT NULL, lease_id uuid NOT NULL, attempt uuid NOT NULL UNIQUE, owner_key text NOT NULL,
    source text NOT NULL, target text NOT NULL, row_count bigint NOT NULL, previous_rows bigint NOT NULL,
    proof jsonb NOT NULL, published_at timestamptz NOT NULL DEFAULT clock_timestamp());
INSERT INTO safecopy.lock VALUES ('분석.고객', 7, gen_random_uuid(), '옛 실행', now())
"""


@pytest.mark.slow
def test_a_schema_of_version_0_1_0_is_brought_up_to_date_and_its_tokens_go_on(
    safecopy: Command, role: MakeRole
) -> None:
    safecopy.target.execute(LAYOUT_1)
    loader = role(safecopy.target)
    safecopy.target.execute(f'GRANT USAGE ON SCHEMA safecopy TO "{loader.role}"')
    refused = safecopy.copy(SAFECOPY_TARGET=loader.conninfo)
    assert refused.code == 2
    assert "is of an earlier version" in refused.err
    assert "or of an earlier version" in safecopy.run("locks").out
    assert safecopy.run("init").code == 0
    assert safecopy.run("locks", "--json").json["locks"] == [], "who held it then is fenced out"
    done = safecopy.copy("--json")
    assert (done.code, done.json["token"]) == (0, 9), done.err
