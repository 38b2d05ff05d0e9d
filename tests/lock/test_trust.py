"""Hostile owners of the schema safecopy: its first maker or a former owner gains nothing from its users."""

from __future__ import annotations

from contextlib import closing

import psycopg
import pytest

from airflow_provider_safecopy import doctor, pipeline
from airflow_provider_safecopy.errors import LockStoreError, PlanError
from airflow_provider_safecopy.lock import schema
from airflow_provider_safecopy.lock.bulk import BulkStore
from airflow_provider_safecopy.lock.living_lock import LivingLock
from airflow_provider_safecopy.lock.model import Contender, Lease, Promise
from airflow_provider_safecopy.lock.postgres import PostgresStore
from airflow_provider_safecopy.pipeline.reap import reap
from airflow_provider_safecopy.spec import CopySpec
from tests.conftest import MakeDatabase, MakeRole
from tests.support.database import ALWAYS, Database

SPEC = CopySpec.of(source_table="public.고객", target_table="public.고객", publish="delete_insert")
TABLES = ("lock", "member", "lock_event", "receipt", "watermark")

# What a hostile role attaches to a table. It makes that role a superuser, if the role that runs it can.
TRAP = """
    CREATE FUNCTION public.trap() RETURNS trigger LANGUAGE plpgsql AS
        $$BEGIN EXECUTE 'ALTER ROLE "{role}" SUPERUSER'; RETURN NEW; END$$;
    CREATE FUNCTION public.number() RETURNS bigint LANGUAGE plpgsql VOLATILE AS
        $$BEGIN EXECUTE 'ALTER ROLE "{role}" SUPERUSER'; RETURN 0; END$$;
    -- What is called immutable may call what is not.
    CREATE FUNCTION public.spring(text) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS
        $$BEGIN PERFORM public.number(); RETURN true; END$$;
    CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE plpgsql VOLATILE AS
        $$BEGIN EXECUTE 'ALTER ROLE "{role}" SUPERUSER'; RETURN now(); END$$;
    CREATE FUNCTION public.quiet(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT $1'
"""
TRAPS = {
    "a trigger": "CREATE TRIGGER t BEFORE INSERT OR UPDATE ON safecopy.lock FOR EACH ROW EXECUTE FUNCTION public.trap()",
    "a trigger of a statement": "CREATE TRIGGER t AFTER DELETE ON safecopy.member EXECUTE FUNCTION public.trap()",
    "a disabled trigger": "CREATE TRIGGER t BEFORE INSERT ON safecopy.receipt FOR EACH ROW EXECUTE FUNCTION public.trap();"
    "ALTER TABLE safecopy.receipt DISABLE TRIGGER t",
    "a rule": "CREATE RULE r AS ON UPDATE TO safecopy.lock DO ALSO SELECT public.number()",
    "a policy": "CREATE POLICY p ON safecopy.lock USING (public.spring(name)); GRANT SELECT ON safecopy.lock TO PUBLIC",
    "row security": "ALTER TABLE safecopy.watermark ENABLE ROW LEVEL SECURITY",
    "a default": "ALTER TABLE safecopy.lock ALTER token SET DEFAULT public.number()",
    "a default of the server's that runs SQL": "ALTER TABLE safecopy.lock ALTER owner_key SET DEFAULT query_to_xml('SELECT 1', false, false, '')::text",
    "a default of a familiar name": "ALTER TABLE safecopy.receipt ALTER published_at SET DEFAULT public.clock_timestamp()",
    "a check": "ALTER TABLE safecopy.lock ADD CHECK (public.spring(name)) NOT VALID",
    "an index of an expression": "CREATE INDEX i ON safecopy.lock (public.quiet(name))",
    "an index of some rows": "CREATE INDEX i ON safecopy.lock (name) WHERE public.quiet(name) = ''",
    "statistics": "CREATE STATISTICS safecopy.s ON (public.quiet(name)) FROM safecopy.lock",
    "a column that computes": "ALTER TABLE safecopy.lock ADD c text GENERATED ALWAYS AS (public.quiet(name)) STORED",
    "a column of a domain": "CREATE DOMAIN public.d AS text CHECK (VALUE IS NULL OR public.spring(VALUE)); ALTER TABLE safecopy.lock ADD c public.d",
    "a child": "CREATE TABLE public.child () INHERITS (safecopy.lock)",
    "a foreign key": "CREATE TABLE public.other (name text REFERENCES safecopy.lock ON UPDATE CASCADE)",
    "a view": "ALTER TABLE safecopy.lock RENAME TO hidden;"
    "CREATE VIEW safecopy.lock AS SELECT * FROM safecopy.hidden WHERE public.spring(name)",
    "an unlogged table": "ALTER TABLE safecopy.member SET UNLOGGED",
}  # fmt: skip


@pytest.fixture
def hostile(target: Database, role: MakeRole) -> Database:
    """A role that may create schemas, and was the first to make the schema safecopy."""
    made = role(target)
    target.execute(f'GRANT CREATE ON DATABASE "{target.name}" TO "{made.role}"; GRANT ALL ON SCHEMA public TO PUBLIC')
    with made.connect() as session:
        schema.init(session)
    target.execute(TRAP.format(role=made.role))
    return made


@pytest.fixture
def tables(source: Database, target: Database) -> tuple[Database, Database]:
    """A table to copy."""
    for database in (source, target):
        database.execute("CREATE TABLE public.고객 (번호 int PRIMARY KEY); INSERT INTO public.고객 VALUES (1)")
    return source, target


def is_superuser(target: Database, hostile: Database) -> bool:
    found: bool = target.value("SELECT rolsuper FROM pg_roles WHERE rolname = %s", [hostile.role])
    return found


def give_back(target: Database) -> None:
    """An administrator makes the schema and its tables the superuser's, and looks at nothing else."""
    target.execute("ALTER SCHEMA safecopy OWNER TO CURRENT_USER")
    for (name,) in target.rows(
        "SELECT relname FROM pg_class WHERE relnamespace = 'safecopy'::regnamespace AND relkind IN ('r', 'v')"
    ):
        target.execute(f"ALTER TABLE safecopy.{name} OWNER TO CURRENT_USER")


def every_use(source: Database, target: Database) -> dict[str, Exception | None]:
    """What each face of the package meets when it wants to use the schema."""

    def acquire() -> object:
        with closing(PostgresStore(target.endpoint)) as store:
            return store.acquire("야간", Contender("시험", process=None), Promise())

    def acquire_all() -> object:
        with closing(BulkStore(target.endpoint)) as store:
            return store.acquire_all(["야간"], Contender("시험", process=None), Promise())

    def release() -> object:
        with closing(PostgresStore(target.endpoint)) as store:
            return store.force_release("야간", reason="시험")

    def init() -> object:
        with target.connect() as session:
            return schema.init(session)

    def living() -> object:
        with LivingLock("야간", target.endpoint) as lock:
            return lock

    uses = {
        "plan": lambda: pipeline.plan(SPEC, source.endpoint, target.endpoint),
        "copy": lambda: pipeline.copy(SPEC, source.endpoint, target.endpoint),
        "plan tables": lambda: pipeline.plan_tables([SPEC], source.endpoint, target.endpoint),
        "copy tables": lambda: pipeline.copy_tables([SPEC], source.endpoint, target.endpoint),
        "reap": lambda: reap(target.endpoint),
        "reap, looking only": lambda: reap(target.endpoint, dry_run=True),
        "acquire": acquire,
        "acquire several": acquire_all,
        "release": release,
        "make the schema": init,
        "a living lock": living,
    }
    return {name: _met(use) for name, use in uses.items()}


def _met(use: object) -> Exception | None:
    try:
        use()  # type: ignore[operator]
    except (LockStoreError, PlanError, psycopg.Error) as error:
        return error
    return None


def demand_refused(source: Database, target: Database, hostile: Database) -> None:
    for use, error in every_use(source, target).items():
        assert isinstance(error, LockStoreError | PlanError), (use, error)
        assert "another role's code" in str(error), use
        assert not error.retryable
    checks = {check.name: check for check in doctor.examine(source.endpoint, target.endpoint, spec=SPEC)}
    assert checks["schema safecopy"].outcome == "failed"
    assert "safecopy init" in checks["schema safecopy"].hint
    assert not is_superuser(target, hostile)


def test_the_owner_of_the_schema_gains_nothing_by_a_superuser_who_copies(
    tables: tuple[Database, Database], hostile: Database
) -> None:
    """Code attached to a shared table runs with the rights of its user; a stranger's table is not touched."""
    hostile.execute(TRAPS["a trigger"])
    demand_refused(*tables, hostile)


def test_a_schema_of_a_strangers_is_refused_before_it_has_any_trap(
    tables: tuple[Database, Database], hostile: Database
) -> None:
    """A role could attach code at any later time: the right to do so is enough to refuse."""
    demand_refused(*tables, hostile)


@pytest.mark.parametrize("trap", TRAPS)
def test_a_trap_that_is_left_when_the_owner_changes_is_found(
    tables: tuple[Database, Database], hostile: Database, trap: str
) -> None:
    """Code attached to a table stays active under its next owner: a trusted owner alone proves nothing."""
    hostile.execute(TRAPS[trap])
    give_back(tables[1])
    demand_refused(*tables, hostile)


def test_a_table_of_a_strangers_in_a_schema_of_ours_is_found(tables: tuple[Database, Database], role: MakeRole) -> None:
    """Roles that copy may create tables in the schema: also one that an earlier layout did not have."""
    _, target = tables
    loader = role(target)
    with target.connect() as session:
        schema.init(session, grant=loader.role)
    target.execute("DROP TABLE safecopy.watermark")
    target.execute(TRAP.format(role=loader.role))
    loader.execute("CREATE TABLE safecopy.watermark (target text, origin text)")
    demand_refused(*tables, loader)


@pytest.mark.parametrize("maker", ["PUBLIC", "role"])
def test_who_may_make_triggers_is_as_good_as_an_owner(
    tables: tuple[Database, Database], role: MakeRole, maker: str
) -> None:
    """GRANT ALL includes TRIGGER: the right to run code as the next user of the table."""
    _, target = tables
    loader = role(target)
    with target.connect() as session:
        schema.init(session)
    target.execute(
        f"GRANT ALL ON ALL TABLES IN SCHEMA safecopy TO {maker if maker == 'PUBLIC' else chr(34) + str(loader.role) + chr(34)}"
    )
    demand_refused(*tables, loader)
    with target.connect() as session:
        told = schema.init(session, take_over=True)
        assert told == ("now only its owner may make triggers on its tables",)
        assert schema.is_ready(session)
    if maker == "role":
        assert target.value(f"SELECT has_table_privilege('{loader.role}', 'safecopy.lock', 'INSERT')")


def test_members_of_the_owners_role_do_not_trust_it_but_who_it_may_become_does(
    target: Database, role: MakeRole
) -> None:
    """If we have the owner's rights, it gains from our use; if the owner has ours, it gains nothing."""
    group, member = role(target), role(target)
    target.execute(f'GRANT CREATE ON DATABASE "{target.name}" TO PUBLIC')
    with group.connect() as session:
        schema.init(session)
    target.execute(f'GRANT "{group.role}" TO "{member.role}"')
    with member.connect() as session:
        assert [each.kind for each in schema.read_state(session).suspicions] == ["owner"] * 6
    target.execute(f'REVOKE "{group.role}" FROM "{member.role}"; GRANT "{member.role}" TO "{group.role}"')
    with member.connect() as session:
        assert schema.read_state(session).suspicions == ()


def test_the_owner_of_the_database_is_trusted(source: Database, database: MakeDatabase, role: MakeRole) -> None:
    target = database()
    owner, loader = role(target), role(target)
    target.execute(f'ALTER DATABASE "{target.name}" OWNER TO "{owner.role}"')
    try:
        with owner.connect() as session:
            schema.init(session, grant=loader.role)
        for each in (owner, loader, target):
            with each.connect() as session:
                assert schema.is_ready(session)
    finally:
        target.execute(f'ALTER DATABASE "{target.name}" OWNER TO CURRENT_USER')


def test_a_role_cannot_grant_what_the_other_would_refuse(target: Database, role: MakeRole) -> None:
    first, second = role(target), role(target)
    target.execute(f'GRANT CREATE ON DATABASE "{target.name}" TO "{first.role}"')
    with first.connect() as session, pytest.raises(LockStoreError, match="it belongs to another role") as caught:
        schema.init(session, grant=second.role)
    assert "superuser" in caught.value.hint
    assert target.value("SELECT to_regnamespace('safecopy')") is None


@pytest.mark.parametrize("major", ALWAYS)
def test_functions_of_the_same_names_in_the_search_path_are_not_called(
    database: MakeDatabase, role: MakeRole, major: int
) -> None:
    """A role's search_path, or a better match of the argument types, never has a say in what a check calls."""
    target = database(major=major)
    hostile = role(target)
    target.execute(TRAP.format(role=hostile.role))
    for name, arguments, result in (
        ("pg_has_role", "oid, oid, text", "bool"), ("has_schema_privilege", "text, text", "bool"),
        ("pg_get_expr", "pg_node_tree, oid", "text"), ("hashtextextended", "text, int", "bigint"),
    ):  # fmt: skip
        target.execute(
            f"CREATE FUNCTION public.{name}({arguments}) RETURNS {result} LANGUAGE plpgsql AS "
            f"$$BEGIN EXECUTE 'ALTER ROLE \"{hostile.role}\" SUPERUSER'; RETURN NULL; END$$"
        )
    target.execute(f'ALTER DATABASE "{target.name}" SET search_path = public, pg_catalog')
    with target.connect() as session:
        schema.init(session)
        assert schema.is_ready(session)
        assert schema.find_refusals(session, role="postgres", may_create=True) == ()
    assert not is_superuser(target, hostile)


# Taking over


@pytest.mark.parametrize("trap", TRAPS)
def test_init_makes_anew_what_was_a_trap_and_keeps_the_rows(
    tables: tuple[Database, Database], hostile: Database, trap: str
) -> None:
    """Taking a schema over runs nothing of what its former owner left; tokens go on growing, receipts are kept."""
    source, target = tables
    with closing(PostgresStore(hostile.endpoint)) as store:
        lease = store.acquire("야간", Contender("옛", process=None), Promise())
    assert isinstance(lease, Lease)
    hostile.execute(
        "INSERT INTO safecopy.receipt (lock, token, lease_id, attempt, owner_key, source, target, proof) "
        "VALUES ('야간', 1, gen_random_uuid(), gen_random_uuid(), '옛', 'a', 'b', '{}')"
    )
    hostile.execute(TRAPS[trap])
    with target.connect() as session:
        told = schema.init(session, take_over=True)
        assert schema.is_ready(session)
    assert "the former one is now the schema safecopy_" in told[0]
    assert not is_superuser(target, hostile)
    assert set(every_use(source, target).values()) == {None}
    assert target.value("SELECT count(*) FROM safecopy.receipt WHERE owner_key = '옛'") == 1
    with closing(PostgresStore(target.endpoint)) as store:
        after = store.acquire("야간", Contender("새", process=None), Promise())
    assert isinstance(after, Lease)
    assert after.token > lease.token or trap == "a view"
    assert not is_superuser(target, hostile)


def test_init_takes_plain_tables_over_as_they_are(tables: tuple[Database, Database], hostile: Database) -> None:
    """Where nothing hangs on the tables, a change of owner is enough: rows, grants and living runs stay."""
    source, target = tables
    hostile.execute("GRANT SELECT ON safecopy.lock TO PUBLIC")
    with closing(PostgresStore(hostile.endpoint)) as store:
        lease = store.acquire("야간", Contender("옛", process=None), Promise())
        assert isinstance(lease, Lease)
        with target.connect() as session:
            (told,) = schema.init(session, take_over=True)
            assert schema.init(session, take_over=True) == ()
        assert "taken over from its former owner" in told
    assert target.rows("SELECT name, token FROM safecopy.lock") == [("야간", lease.token)]
    assert target.value("SELECT count(*) FROM safecopy.member") == 1
    pipeline.copy(SPEC, source.endpoint, target.endpoint)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        hostile.execute(TRAPS["a trigger"])


def test_init_does_not_take_over_tables_without_the_keys_that_the_fence_needs(
    tables: tuple[Database, Database], hostile: Database
) -> None:
    target = tables[1]
    hostile.execute("ALTER TABLE safecopy.lock DROP CONSTRAINT lock_name_token_lease_id_key")
    with target.connect() as session:
        assert "made anew" in schema.init(session, take_over=True)[0]
        assert schema.is_ready(session)


def test_init_by_who_has_no_right_to_it_says_who_has(target: Database, role: MakeRole, hostile: Database) -> None:
    other = role(target)
    target.execute(f'GRANT CREATE ON DATABASE "{target.name}" TO "{other.role}"')
    with other.connect() as session, pytest.raises(LockStoreError, match="cannot be taken over") as caught:
        schema.init(session, take_over=True)
    assert "superuser" in caught.value.hint
    assert str(hostile.role) in str(caught.value)


def test_what_is_found_is_told_in_one_line() -> None:
    found = tuple(schema.Suspicion("trap", f"lock has the trigger t{number}") for number in range(9))
    assert schema.describe_suspicions(found).endswith("; and 4 more")
    error = 'invalid input syntax for type integer: "untrusted schema: owner the schema belongs to x; trap lock has it"'
    assert schema.parse_suspicions(error) == (
        schema.Suspicion("owner", "the schema belongs to x"), schema.Suspicion("trap", "lock has it"),
    )  # fmt: skip
    assert schema.parse_suspicions("anything else") is None
