"""What tables write of several labels an image, and what sources carry of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdclr.data.attributes import Attributes, attribute_columns, read_attributes
from sdclr.data.sources import ArraySource, SubsetSource, attributes_of
from sdclr.errors import InputError

IMAGES = np.zeros((3, 2, 2), dtype=np.uint8)
TABLE = [[1, 0], [0, -1], [1, 1]]


def read(**columns):
    return read_attributes({name.replace("attr_", "attr:"): values for name, values in columns.items()}, "t.csv")


class TestAttributes:
    def test_counts_and_parts(self):
        found = Attributes(values=np.array(TABLE), names=("hat", "dog"))
        assert found.values.dtype == np.int8
        assert found.positive_counts().tolist() == [2, 1]
        assert found.take([2, 1]).values.tolist() == [[1, 1], [0, -1]]

    def test_under_other_names_what_is_not_there_is_unknown(self):
        found = Attributes(values=np.array(TABLE), names=("hat", "dog")).named(["cat", "dog", "hat"])
        assert found.names == ("cat", "dog", "hat")
        assert found.values.tolist() == [[-1, 0, 1], [-1, -1, 0], [-1, 1, 1]]

    def test_booleans(self):
        found = Attributes(values=np.array([[True], [False]]), names=("hat",))
        assert found.values.tolist() == [[1], [0]]

    @pytest.mark.parametrize(
        ("values", "names", "message"),
        [
            ([[1, 0]], ("hat",), r"shape \(1, 2\) .* for 1 names"),
            ([1, 0], ("hat", "dog"), r"shape \(2,\)"),
            ([[0.5]], ("hat",), "type float64"),
            ([[1, 0]], ("hat", "hat"), "'hat' is named twice"),
            ([[1, 0], [0, 2]], ("hat", "dog"), "'dog' of image 1 is 2"),
            (np.array([[255]], dtype=np.uint8), ("hat",), "'hat' of image 0 is 255"),
        ],
    )
    def test_refuses(self, values, names, message):
        with pytest.raises(InputError, match=message):
            Attributes(values=np.asarray(values), names=names)


class TestIndicators:
    def test_every_way_of_writing(self):
        found = read(
            attr_a=["1", " 0", "", "TRUE", "false", "1.0"],
            attr_b=[1, 0.0, None, True, False, np.nan],
        )
        assert found.names == ("a", "b")
        assert found.values.T.tolist() == [[1, 0, -1, 1, 0, 1], [1, 0, -1, 1, 0, -1]]

    def test_minus_one_is_absence_where_there_is_no_zero(self):
        found = read(attr_Smiling=["1", "-1", "-1"], attr_Hat=["-1", "", "-1.0"])
        assert found.values.T.tolist() == [[1, 0, 0], [0, -1, 0]]

    def test_minus_one_beside_zero_is_refused(self):
        with pytest.raises(InputError, match=r"t\.csv: row 2 of column `attr:b` holds -1, and column `attr:a` holds 0"):
            read(attr_a=["1", "0"], attr_b=["1", "-1"])

    def test_another_value_is_named_with_its_place(self):
        with pytest.raises(InputError, match=r"t\.csv: row 3 of column `attr:b` holds 'maybe'; write 1"):
            read(attr_a=["1", "0", "1"], attr_b=["1", "0", "maybe"])
        with pytest.raises(InputError, match=r"row 1 of column `attr:a` holds 2\.5"):
            read(attr_a=[2.5])

    @given(st.lists(st.lists(st.sampled_from([1, 0, None]), min_size=2, max_size=2), min_size=1, max_size=8))
    def test_as_text_or_as_values_they_are_the_same(self, rows):
        columns = list(zip(*rows, strict=True))
        text = read(**{f"attr_{n}": ["" if v is None else str(v) for v in c] for n, c in enumerate(columns)})
        values = read(**{f"attr_{n}": list(c) for n, c in enumerate(columns)})
        assert text.values.tolist() == values.values.tolist()
        assert text.values.tolist() == [[-1 if v is None else v for v in row] for row in rows]


class TestLists:
    def test_texts(self):
        found = read(attributes=["hat;dog", "", "dog | cat ;", "hat;hat"])
        assert found.names == ("cat", "dog", "hat")
        assert found.values.tolist() == [[0, 1, 1], [0, 0, 0], [1, 1, 0], [0, 0, 1]]

    def test_numbers_are_sorted_as_numbers(self):
        assert read(attributes=["10;9", "100"]).names == ("9", "10", "100")
        assert read(attributes=[[10, 9], [100]]).names == ("9", "10", "100")
        assert read(attributes=["10;b"]).names == ("10", "b")

    def test_a_null_list_is_unknown_and_an_empty_one_none_of_them(self):
        assert read(attributes=[["a"], None, []]).values.tolist() == [[1], [-1], [0]]

    def test_numbers_with_given_names(self):
        found = read_attributes({"attributes": [[2], [0, 2]]}, "t", names=["z", "y", "x"])
        assert found.names == ("z", "y", "x")
        assert found.values.tolist() == [[0, 0, 1], [1, 0, 1]]
        with pytest.raises(InputError, match="row 2 of column `attributes` lists 3; give numbers from 0 to 2"):
            read_attributes({"attributes": [[2], [3]]}, "t", names=["z", "y", "x"])

    @pytest.mark.parametrize("member", [-1, 0.5, None, True, "", ["a"]])
    def test_another_member_is_named_with_its_place(self, member):
        with pytest.raises(InputError, match=r"t\.csv: row 2 of column `attributes` lists"):
            read(attributes=[["a"], ["a", member]])

    def test_another_cell_is_named_with_its_place(self):
        with pytest.raises(InputError, match=r"row 1 of column `attributes` holds 3\.5"):
            read(attributes=[3.5])

    def test_a_vector_of_zeros_and_ones_is_not_taken_for_numbers(self):
        with pytest.raises(InputError, match="holds a 0 or 1 for every attribute; list the numbers"):
            read(attributes=[[0, 1, 1], [0, 0, 0]])
        assert read(attributes=[[0, 1], [0]]).values.tolist() == [[1, 1], [1, 0]]

    def test_free_text_is_refused(self):
        with pytest.raises(InputError, match="10001 different attributes, more than 10000; rename the column"):
            read(attributes=[f"story {number}" for number in range(10_001)])


class TestColumns:
    def test_found_among_others(self):
        assert attribute_columns(["path", "attr:hat", "attribute", "attrition", "attr:dog"], "t") == [
            "attr:hat",
            "attr:dog",
        ]
        assert attribute_columns(["attributes", "label"], "t") == ["attributes"]
        assert attribute_columns(["path"], "t") == []
        assert read_attributes({}, "t") is None

    @pytest.mark.parametrize(
        ("columns", "message"),
        [
            (["attributes", "attr:hat"], "both a column `attributes` and indicators such as `attr:hat`"),
            (["attr:hat", "attr: hat"], "the column `attr: hat` twice"),
            (["attributes", "attributes"], "the column `attributes` twice"),
            (["attr: "], "without a name; write attr:NAME"),
        ],
    )
    def test_refused(self, columns, message):
        with pytest.raises(InputError, match=message):
            attribute_columns(columns, "t.csv")


class TestSources:
    def test_an_array_and_a_part_of_it(self):
        source = ArraySource(IMAGES, attributes=TABLE, attribute_names=["hat", "dog"])
        part = SubsetSource(SubsetSource(source, [2, 1]), [1])
        assert attributes_of(source).values.tolist() == TABLE
        assert attributes_of(part).values.tolist() == [[0, -1]]
        assert attributes_of(part).names == ("hat", "dog")

    def test_without(self):
        source = ArraySource(IMAGES)
        assert attributes_of(source) is None
        assert attributes_of(SubsetSource(source, [0])) is None

    def test_a_source_of_ones_own_may_lack_them_or_their_names(self):
        class Own:
            name, ids, labels, classes = "own", ("a", "b"), None, ()

            def __len__(self):
                return 2

        source = Own()
        assert attributes_of(source) is None
        assert attributes_of(SubsetSource(source, [0])) is None
        source.attributes = [[True, False], [False, False]]
        assert attributes_of(source).names == ("0", "1")
        assert attributes_of(SubsetSource(source, [0])).values.tolist() == [[1, 0]]

    @pytest.mark.parametrize(
        ("values", "message"),
        [([[1, 0]], "noise: has attributes of 1 images, but 3"), ([[1], [0], [3]], "noise: .* of image 2 is 3")],
    )
    def test_they_must_fit(self, values, message):
        with pytest.raises(InputError, match=message):
            ArraySource(IMAGES, name="noise", attributes=values)


def test_numbers_of_thousands_of_digits_are_names_of_attributes():
    read = read_attributes({"attributes": ["1" * 5_000, "2;10"]}, "a.csv")
    assert read is not None
    assert set(read.names) == {"1" * 5_000, "2", "10"}
