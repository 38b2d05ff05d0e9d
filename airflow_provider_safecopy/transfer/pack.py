"""Packing what is spooled to disk, on request, with a library of the user's choice. Each piece stands for itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from airflow_provider_safecopy.errors import Refusal
from airflow_provider_safecopy.transfer.model import Compress

_LEVEL = 1
"""The fastest that packs at all: a disk slow enough to make a higher one worth its time is rare."""

_LIBRARIES = {"zstd": "zstandard", "lz4": "lz4"}


@dataclass(frozen=True)
class Packing:
    """How pieces are packed, and unpacked again. `unpack` raises OSError for what was not packed so."""

    pack: Callable[[bytes | memoryview], bytes]
    unpack: Callable[[bytes], bytes]


def packing(wanted: Compress) -> Packing | None:
    """The packing that is meant; None for none. Only where `refusals` found nothing."""
    if wanted == "zstd":
        import zstandard

        packer, unpacker = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True), zstandard.ZstdDecompressor()
        return Packing(packer.compress, _telling(unpacker.decompress, zstandard.ZstdError))
    if wanted == "lz4":
        import lz4.frame

        def pack(data: bytes | memoryview) -> bytes:
            return bytes(lz4.frame.compress(data, content_checksum=True))

        return Packing(pack, _telling(lz4.frame.decompress, RuntimeError))
    return None


def refusals(wanted: Compress) -> list[Refusal]:
    """Why pieces cannot be packed: the library is not there."""
    if wanted == "none" or find_spec(_LIBRARIES[wanted]) is not None:
        return []
    message = f"compress={wanted}: the Python package {_LIBRARIES[wanted]} is not installed"
    return [Refusal("compress", message, hint="pip install 'airflow-provider-safecopy[compress]', or leave it out")]


def _telling(unpack: Callable[[bytes], Any], wrong: type[Exception]) -> Callable[[bytes], bytes]:
    def told(data: bytes) -> bytes:
        try:
            return bytes(unpack(data))
        except (wrong, MemoryError) as error:  # MemoryError: it says of itself that it is larger than all memory
            raise OSError(f"a spool file does not hold what was written to it: {error}") from error

    return told
