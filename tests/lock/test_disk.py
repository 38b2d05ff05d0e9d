"""Files are written whole or not at all; errors of the system say what to do next."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from pytest_mock import MockerFixture

from airflow_provider_safecopy.errors import LockStoreError
from airflow_provider_safecopy.lock import file_record


def test_a_file_is_replaced_for_this_user_alone(tmp_path: Path) -> None:
    file = tmp_path / "상태"
    file_record.replace_file(file, b"old and long")
    file_record.replace_file(file, "새것".encode())
    assert file.read_text() == "새것"
    assert file.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [file]


def test_what_was_half_written_is_written_over(tmp_path: Path) -> None:
    file = tmp_path / "상태"
    file_record.replace_file(file, b"old")
    (tmp_path / "상태.new").write_bytes(b"half of something that is quite lo")
    file_record.replace_file(file, b"new")
    assert file.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [file]


def test_content_and_name_reach_the_disk_in_that_order(tmp_path: Path, mocker: MockerFixture) -> None:
    done: list[str] = []
    real_sync, real_rename = os.fsync, os.rename

    def sync(descriptor: int) -> None:
        done.append(f"fsync {Path(f'/proc/self/fd/{descriptor}').readlink().name}")
        real_sync(descriptor)

    def rename(old: Path, new: Path) -> None:
        done.append(f"rename {old.name}")
        real_rename(old, new)

    mocker.patch("os.fsync", sync)
    mocker.patch("os.rename", rename)
    file_record.replace_file(tmp_path / "상태", b"new")
    assert done == ["fsync 상태.new", "rename 상태.new", f"fsync {tmp_path.name}"]


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, mocker: MockerFixture) -> None:
    file = tmp_path / "상태"
    file_record.replace_file(file, b"old")
    mocker.patch("os.fsync", side_effect=OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(OSError, match="No space"):
        file_record.replace_file(file, b"new")
    assert file.read_bytes() == b"old"


@pytest.mark.parametrize(
    ("number", "hint", "retryable"),
    [
        (errno.ENOENT, "make the directory", False),
        (errno.ENOTDIR, "not a file", False),
        (errno.EACCES, "let this user", False),
        (errno.EPERM, "let this user", False),
        (errno.EROFS, "can be written to", False),
        (errno.ENOSPC, "make room", True),
        (errno.EDQUOT, "make room", True),
        (errno.EIO, "", True),
        (errno.EMFILE, "", True),
        (errno.ELOOP, "", False),
    ],
    ids=lambda value: errno.errorcode.get(value) if isinstance(value, int) else None,
)
def test_errors_say_where_and_what_next(number: int, hint: str, *, retryable: bool) -> None:
    with (
        pytest.raises(LockStoreError, match=r"/잠금/여기: .*/잠금/여기/파일") as caught,
        file_record.translate_errors(Path("/잠금/여기")),
    ):
        raise OSError(number, os.strerror(number), "/잠금/여기/파일")
    assert hint in caught.value.hint
    assert bool(hint) == bool(caught.value.hint)
    assert caught.value.retryable == retryable
    assert isinstance(caught.value.__cause__, OSError)
