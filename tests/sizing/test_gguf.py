from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from router.domain.models import ModelCard
from router.sizing.gguf import GgufError, card, read_header
from tests.sizing.conftest import MakeHeader, WriteGguf

LLAMA = {
    "general.name": "Small One",
    "general.file_type": 15,
    "llama.context_length": 2048,
    "llama.block_count": 3,
}


def part(number: int, count: int, name: str = "big") -> str:
    return f"{name}-{number:05}-of-{count:05}.gguf"


@pytest.fixture
def split(write_gguf: WriteGguf) -> Path:
    """A model in three parts; the path of the first."""
    for number in (1, 2, 3):
        fields = {"split.no": number - 1, "split.count": 3, "split.tensors.count": 3}
        write_gguf(
            part(number, 3),
            fields=fields | (LLAMA if number == 1 else {}),
            tensors={f"blk.{number - 1}.w": np.zeros((4, 8), "f4")},
        )
    return write_gguf(part(9, 9), fields={}).with_name(part(1, 3))


def test_a_card_tells_what_people_want_to_know(write_gguf: WriteGguf) -> None:
    path = write_gguf(fields=LLAMA, tensors={"a": np.zeros((4, 8), "f4"), "b": np.zeros(8, "f2")})
    assert card(read_header(path)) == ModelCard(
        architecture="llama",
        name="Small One",
        quantization="Q4_K_M",
        parameters=40,
        context_train=2048,
        file_bytes=path.stat().st_size,
        layers=3,
        pooled=False,
    )


def test_without_a_file_type_the_commonest_tensor_type_is_the_quantization(write_gguf: WriteGguf) -> None:
    tensors = {"a": np.zeros((4, 32), "f2"), "b": np.zeros(16, "f4"), "c": np.zeros(16, "f4")}
    assert card(read_header(write_gguf(tensors=tensors))).quantization == "F16"
    unknown = write_gguf("u.gguf", fields={"general.file_type": 999}, tensors=tensors)
    assert card(read_header(unknown)).quantization == "F16"


@pytest.mark.parametrize(
    ("architecture", "pooling", "pooled"),
    [
        ("llama", None, False),
        ("llama", 0, False),
        ("llama", -1, False),
        ("qwen3", 3, True),
        ("nomic-bert", None, True),
        ("bert", 0, True),
        ("gemma-embedding", None, True),
    ],
)
def test_a_model_with_a_pooling_type_of_its_own_is_pooled(
    make_header: MakeHeader, architecture: str, pooling: int | None, pooled: bool
) -> None:
    fields = {} if pooling is None else {"pooling_type": pooling}
    assert card(make_header(architecture, fields)).pooled is pooled


def test_fields_of_the_wrong_type_count_as_missing(make_header: MakeHeader) -> None:
    header = make_header("llama", {"context_length": "many", "block_count": -4})
    assert (card(header).context_train, card(header).layers) == (0, 0)


def test_all_parts_of_a_split_model_are_one_model(split: Path) -> None:
    header = read_header(split)
    assert [path.name for path in header.files] == [part(n, 3) for n in (1, 2, 3)]
    assert [tensor.name for tensor in header.tensors] == ["blk.0.w", "blk.1.w", "blk.2.w"]
    assert header.file_bytes == sum(path.stat().st_size for path in header.files)
    assert card(header).name == "Small One"


def test_a_missing_part_is_named(split: Path) -> None:
    split.with_name(part(2, 3)).unlink()
    with pytest.raises(
        GgufError, match=r"Part 2 of 3 is missing: .*big-00002-of-00003\.gguf does not exist\."
    ):
        read_header(split)


def test_a_part_other_than_the_first_names_the_first(split: Path) -> None:
    with pytest.raises(GgufError, match=r"not the first part of its model; name big-00001-of-00003\.gguf"):
        read_header(split.with_name(part(2, 3)))


def test_a_part_of_another_model_is_refused(split: Path, write_gguf: WriteGguf) -> None:
    write_gguf(part(2, 3), fields={"split.no": 2, "split.count": 3})
    with pytest.raises(GgufError, match="does not hold part 2 of 3"):
        read_header(split)


def test_a_truncated_part_is_named(split: Path) -> None:
    last = split.with_name(part(3, 3))
    last.write_bytes(last.read_bytes()[:-40])
    with pytest.raises(GgufError, match=r"big-00003-of-00003\.gguf is not usable: truncated: its weights"):
        read_header(split)


def test_a_renamed_part_is_refused(split: Path) -> None:
    renamed = split.rename(split.with_name("renamed.gguf"))
    with pytest.raises(GgufError, match=r"its name does not end in -00001-of-00003\.gguf"):
        read_header(renamed)


def test_an_absurd_number_of_parts_is_refused(write_gguf: WriteGguf) -> None:
    with pytest.raises(GgufError, match="one of 4000000000 parts"):
        read_header(write_gguf(fields={"split.count": 4_000_000_000}))


def test_parts_that_hold_too_few_tensors_are_refused(write_gguf: WriteGguf) -> None:
    with pytest.raises(GgufError, match="announces 7 tensors; its parts hold 1"):
        read_header(write_gguf(fields={"split.tensors.count": 7}))


def test_a_tensor_in_two_parts_is_refused(split: Path, write_gguf: WriteGguf) -> None:
    fields = {"split.no": 2, "split.count": 3}
    write_gguf(part(3, 3), fields=fields, tensors={"blk.0.w": np.zeros((4, 8), "f4")})
    with pytest.raises(GgufError, match=r"the tensor 'blk\.0\.w' appears 2 times"):
        read_header(split)


def test_a_file_without_weights_is_no_model(write_gguf: WriteGguf) -> None:
    with pytest.raises(GgufError, match="holds no weights"):
        read_header(write_gguf(tensors={}))


def test_a_file_without_an_architecture_is_no_model(write_gguf: WriteGguf) -> None:
    path = write_gguf()
    path.write_bytes(path.read_bytes().replace(b"general.architecture", b"general.architectur_"))
    with pytest.raises(GgufError, match=r"not a model: it has no general\.architecture"):
        read_header(path)


def test_an_absurd_number_of_layers_is_refused(write_gguf: WriteGguf) -> None:
    with pytest.raises(GgufError, match="4294967295 layers"):
        read_header(write_gguf(fields={"llama.block_count": 2**32 - 1}))
