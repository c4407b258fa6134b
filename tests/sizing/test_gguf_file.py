from __future__ import annotations

import os
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from router.domain.models import EngineOptions
from router.sizing import estimate, gguf_file
from router.sizing.gguf import card, read_header
from router.sizing.gguf_file import GgufError, LongArray, read_file
from tests.sizing.conftest import WriteGguf, write

UINT32, STRING, ARRAY = 4, 8, 9
Refusal = Callable[[bytes], str]


def string(text: str | bytes) -> bytes:
    content = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(content)) + content


def entry(key: str, kind: int, value: bytes) -> bytes:
    return string(key) + struct.pack("<I", kind) + value


def array(kind: int, length: int, content: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, length) + content


def tensor(name: str, shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    return string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def raw(
    entries: list[bytes] | None = None,
    tensors: list[bytes] | None = None,
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    counts: tuple[int, int] | None = None,
    weights: int = 0,
) -> bytes:
    """A file put together by hand, so that it can be wrong."""
    entries, tensors = entries or [], tensors or []
    tensor_count, entry_count = counts or (len(tensors), len(entries))
    head = magic + struct.pack("<IQQ", version, tensor_count, entry_count) + b"".join(entries + tensors)
    return head + bytes(-len(head) % 32) + bytes(weights)


@pytest.fixture
def refusal(tmp_path: Path) -> Refusal:
    """refusal(content) -> what the reader says of it"""

    def _refusal(content: bytes) -> str:
        path = tmp_path / "bad.gguf"
        path.write_bytes(content)
        with pytest.raises(GgufError) as caught:
            read_file(path)
        assert str(path) in str(caught.value)
        assert str(caught.value).endswith(".")
        return str(caught.value)

    return _refusal


# What is right --------------------------------------------------------------------------------------------


def test_metadata_and_tensors_are_read_as_the_reference_wrote_them(write_gguf: WriteGguf) -> None:
    fields = {
        "a.int": 7,
        "a.minus": -3,
        "a.float": 0.5,
        "a.yes": True,
        "a.text": "héllo",
        "a.list": [1, 2, 3],
    }
    path = write_gguf(fields=fields | {"a.words": ["x", "yz"]}, tensors={"w": np.zeros((2, 3, 5), "f2")})
    read = read_file(path)
    assert {key: read.metadata[key] for key in fields} == fields | {"a.list": (1, 2, 3)}
    assert read.metadata["a.words"] == ("x", "yz")
    assert read.tensors == (gguf_file.TensorInfo("w", (5, 3, 2), 1, 60),)
    assert read.size == path.stat().st_size


def test_version_2_is_read(tmp_path: Path) -> None:
    path = tmp_path / "two.gguf"
    path.write_bytes(raw([entry("a", UINT32, b"\1\0\0\0")], version=2))
    assert read_file(path).metadata == {"a": 1}


def test_a_vocabulary_is_passed_over_and_leaves_only_its_length(write_gguf: WriteGguf) -> None:
    words = [f"token {number}" for number in range(3000)]
    scores = [0.5] * 3000
    read = read_file(write_gguf(fields={"t.words": words, "t.scores": scores, "t.after": 9}))
    assert read.metadata["t.words"] == read.metadata["t.scores"] == LongArray(3000)
    assert read.metadata["t.after"] == 9


def test_memory_does_not_grow_with_the_vocabulary(write_gguf: WriteGguf) -> None:
    path = write_gguf(fields={"t.words": [f"a token of some length {number}" for number in range(262_144)]})
    assert path.stat().st_size > 8 * 2**20
    tracemalloc.start()
    try:
        assert read_file(path).metadata["t.words"] == LongArray(262_144)
        assert tracemalloc.get_traced_memory()[1] < 2 * 2**20
    finally:
        tracemalloc.stop()


def test_nested_arrays_are_passed_over(tmp_path: Path) -> None:
    inner = array(UINT32, 2, bytes(8))
    path = tmp_path / "nested.gguf"
    path.write_bytes(raw([entry("a", ARRAY, array(ARRAY, 3, inner * 3)), entry("b", UINT32, bytes(4))]))
    assert read_file(path).metadata == {"a": LongArray(3), "b": 0}


def test_bytes_that_are_no_text_do_not_stop_the_reading(tmp_path: Path) -> None:
    path = tmp_path / "latin.gguf"
    path.write_bytes(raw([entry("a", STRING, string(b"caf\xe9"))]))
    assert read_file(path).metadata == {"a": "caf\ufffd"}


# What is no file ------------------------------------------------------------------------------------------


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(GgufError, match=r"none\.gguf does not exist\.$"):
        read_file(tmp_path / "none.gguf")


def test_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GgufError, match=r"is a directory; name a \.gguf file"):
        read_file(tmp_path)


def test_a_path_through_a_file_is_refused(write_gguf: WriteGguf) -> None:
    with pytest.raises(GgufError, match="cannot be opened: Not a directory"):
        read_file(write_gguf() / "below.gguf")


def test_an_unreadable_file_is_refused(tmp_path: Path) -> None:
    loop = tmp_path / "loop.gguf"
    loop.symlink_to(loop)
    with pytest.raises(GgufError, match="cannot be opened: Too many levels of symbolic links"):
        read_file(loop)


def test_a_named_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(GgufError, match="is not a regular file"):
        read_file(tmp_path / "pipe.gguf")


def test_a_path_with_a_null_byte_is_refused() -> None:
    with pytest.raises(GgufError, match="is not a path"):
        read_file(Path("a\0b"))


# What is wrong in it --------------------------------------------------------------------------------------


def test_an_empty_file_is_told_from_a_truncated_one(refusal: Refusal) -> None:
    assert refusal(b"").endswith("is empty.")


SMALL = [
    (b"GG", "not a GGUF file"),
    (b"GGML" + bytes(100), "not a GGUF file (it begins with b'GGML')"),
    (b"GGUF", "truncated: the version needs a file of 8 bytes, found 4"),
    (b"GGUF\3\0\0\0\1", "truncated: the counts of tensors and metadata needs a file of 24 bytes, found 9"),
    (raw(version=1), "GGUF version 1; versions 2 and 3 are read"),
    (raw(version=4), "GGUF version 4"),
    (raw(version=3 << 24), "a big-endian GGUF file"),
    (raw(counts=(0, 2**64 - 1)), "absurd: it announces 18446744073709551615 metadata entries"),
    (raw(counts=(2**63, 0)), "absurd: it announces 9223372036854775808 tensors"),
    (raw(counts=(0, 1000)), "truncated: 1000 metadata entries needs a file of 13024 bytes"),
    (raw(counts=(1000, 0)), "truncated: 1000 tensors needs a file of 32024 bytes"),
    (raw([entry("a", 13, bytes(8))]), "the metadata key 'a' has the unknown type 13"),
    (raw([entry("a", ARRAY, array(13, 1, bytes(8)))]), "the metadata key 'a' has the unknown type 13"),
    (raw([entry("a", UINT32, bytes(4))] * 2), "the metadata key 'a' appears twice"),
    (raw([struct.pack("<Q", 2**60) + bytes(20)]), "truncated: a metadata key needs a file of"),
    (raw([entry("k" * 65_536, UINT32, bytes(4))]), "absurd: a metadata key is 65536 bytes long"),
    (raw([entry("a", STRING, struct.pack("<Q", 2**63))]), "truncated: the value of 'a' needs a file of"),
    (raw([entry("a", ARRAY, array(UINT32, 2**62))]), "truncated: the array 'a' needs a file of"),
    (raw([entry("a", ARRAY, array(STRING, 2**61))]), "truncated: the array 'a' needs a file of"),
    (raw([entry("a", ARRAY, array(ARRAY, 2**61))]), "truncated: the array 'a' needs a file of"),
    (raw([entry("a", ARRAY, array(ARRAY, 1) * 5 + array(UINT32, 0))]), "nested more than 4 deep"),
    (raw([entry("general.alignment", UINT32, b"\3\0\0\0")]), "general.alignment is 3, not a power of two"),
    (raw([entry("general.alignment", UINT32, bytes(4))]), "general.alignment is 0"),
    (raw([entry("general.alignment", STRING, string("x"))]), "general.alignment is 'x'"),
    (raw(tensors=[tensor("w", ())]), "tensor 'w' has 0 dimensions"),
    (raw(tensors=[tensor("w", (1,) * 5)]), "tensor 'w' has 5 dimensions"),
    (raw(tensors=[tensor("w", (0, 4))]), "absurd: tensor 'w' has the shape (0, 4)"),
    (raw(tensors=[tensor("w", (2**63, 2**63))]), "absurd: tensor 'w' has the shape"),
    (raw(tensors=[tensor("w", (8,), kind=4)]), "tensor 'w' has the unknown type 4"),
    (raw(tensors=[tensor("w", (33,), kind=8)]), "rows of tensor 'w' are no multiple of 32 long"),
    (raw(tensors=[tensor("w", (8,), offset=64)], weights=96), "tensor 'w' lies at 64, expected at 0"),
    (raw(tensors=[tensor("w", (8,))]), "truncated: its weights need a file of 96 bytes, found 64"),
]


@pytest.mark.parametrize(("content", "reason"), SMALL, ids=[reason[:40] for _, reason in SMALL])
def test_what_is_wrong_is_said(refusal: Refusal, content: bytes, reason: str) -> None:
    assert reason in refusal(content)


def test_a_file_cut_anywhere_is_refused(write_gguf: WriteGguf, refusal: Refusal) -> None:
    whole = write_gguf(fields={"a.words": ["x", "yz"], "a.n": 1}).read_bytes()
    for length in range(len(whole) - 32):
        refusal(whole[:length])


def test_too_many_strings_are_refused(refusal: Refusal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_file, "MAX_PASSED_OVER", 5000)
    words = entry("a", ARRAY, array(STRING, 5001, bytes(8 * 5001)))
    assert "absurd: over 5000 strings" in refusal(raw([words]))


def test_too_much_text_is_refused(refusal: Refusal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_file, "MAX_KEPT_BYTES", 1000)
    assert "absurd: the value of 'b'" in refusal(
        raw([entry("a", STRING, string("x" * 600)), entry("b", STRING, string("x" * 600))])
    )


# Fuzzing --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def seed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    fields = {"llama.block_count": 2, "llama.attention.head_count": [4, 2], "llama.embedding_length": 32}
    return write(
        tmp_path_factory.mktemp("seed") / "seed.gguf",
        fields=fields | {"tokenizer.ggml.tokens": ["a", "bc"], "split.count": 1, "general.file_type": 7},
        tensors={f"blk.{i}.attn_q.weight": np.zeros((2, 32), "f4") for i in range(2)},
    ).read_bytes()


EDGES = st.sampled_from([0, 1, 0x7F, 0x80, 0xFF])
Mutation = tuple[int, bytes]
MUTATIONS = st.lists(
    st.tuples(
        st.integers(0, 2**16),
        st.one_of(
            EDGES.map(lambda value: bytes([value])),
            st.binary(min_size=1, max_size=9),
            st.sampled_from([2**32 - 1, 2**31, 2**63, 2**64 - 1]).map(lambda n: struct.pack("<Q", n)),
        ),
    ),
    max_size=4,
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(mutations=[], cut=0)
@given(mutations=MUTATIONS, cut=st.integers(0, 300))
def test_a_mutated_file_is_refused_or_understood(
    seed: bytes, tmp_path: Path, mutations: list[Mutation], cut: int
) -> None:
    content = bytearray(seed[: len(seed) - cut])
    for place, patch in mutations:
        place %= max(len(content), 1)
        content[place : place + len(patch)] = patch
    path = tmp_path / "mutated.gguf"
    path.write_bytes(content)
    try:
        header = read_header(path)
    except GgufError as error:
        assert str(error)
        return
    # Whatever is understood can also be sized.
    assert card(header).file_bytes == len(content)
    assert estimate.formula(header, EngineOptions()).total >= 0
    for gpu_layers in (0, 3, -1):
        options = EngineOptions(devices=("gpu0", "gpu1"), gpu_layers=gpu_layers)
        assert all(held.total >= 0 for held in estimate.footprints(header, options).values())
