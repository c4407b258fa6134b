from __future__ import annotations

import gguf
import pytest

from router.sizing.ggml_types import BLOCKS, FILE_TYPES, SCALAR_FORMATS, ValueType

KNOWN = {int(kind) for kind in gguf.GGMLQuantizationType}


@pytest.mark.parametrize("number", sorted(KNOWN & BLOCKS.keys()))
def test_a_tensor_type_has_the_name_and_size_of_the_reference(number: int) -> None:
    kind = gguf.GGMLQuantizationType(number)
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    # The reference says 40 for Q8_1, which no file holds; its C struct has two halves and 32 bytes.
    expected = 36 if kind.name == "Q8_1" else size
    assert BLOCKS[number] == (kind.name, elements, expected)


def test_every_tensor_type_of_the_reference_is_known() -> None:
    assert BLOCKS.keys() >= KNOWN


def test_every_file_type_of_the_reference_has_its_name() -> None:
    known = {int(kind): kind.name for kind in gguf.LlamaFileType if kind.name != "GUESSED"}
    for number, name in known.items():
        assert name.removeprefix("ALL_").removeprefix("MOSTLY_") == FILE_TYPES[number]


def test_value_types_are_numbered_as_in_the_reference() -> None:
    assert {kind.name: int(kind) for kind in ValueType} == {
        kind.name: int(kind) for kind in gguf.GGUFValueType
    }


def test_every_value_type_of_fixed_size_can_be_unpacked() -> None:
    assert set(ValueType) - set(SCALAR_FORMATS) == {ValueType.STRING, ValueType.ARRAY}


def test_a_row_takes_whole_blocks() -> None:
    q8_0 = BLOCKS[8]
    assert (q8_0.row(0), q8_0.row(1), q8_0.row(32), q8_0.row(33)) == (0, 34, 34, 68)
