"""Options take no number that their command cannot use: one line says so before anything is read."""

import pytest

from sdclr.cli.parsing import parse
from sdclr.errors import InputError


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("mine digits --workers -1", "--workers is -1: give 0 or more"),
        ("mine digits --thumbnails -1", "--thumbnails is -1: give 0 or more"),
        ("mine digits --image-size -3", "image_size is -3: give 1 or more"),
        ("select digits --budget 0", "--budget is 0: give 1 or more"),
        ("select digits --budget all --seed -2", "--seed is -2: give 0 or more"),
        ("embed digits --out x --batch-size 0", "--batch-size is 0: give 1 or more"),
        ("neighbors digits --queries x --k 0", "--k is 0: give 1 or more"),
        ("bench --data x --widths 16 0", "--widths is 0: give 1 or more"),
        ("bench --data x --splits 0", "--splits is 0: give 1 or more"),
        ("reproduce table1 --data x --epochs 0", "--epochs is 0: give 1 or more"),
        ("demo --splits 0", "--splits is 0: give 1 or more"),
        ("pretrain digits --recipe digits_demo --epochs 99999999999999999999", "whole number of at most 64 bits"),
        ("pretrain digits --recipe digits_demo --temperature inf", "temperature is inf: give a finite number"),
        ("pretrain digits --recipe digits_demo --optim.weight-decay nan", "weight_decay is nan: give a finite number"),
        ("pretrain digits --recipe digits_demo --encoder.std nan 1 1", "encoder.std is nan: give a finite number"),
        ("pretrain digits --recipe digits_demo --subset.imbalance 0", "imbalance is 0.0: give 1 or more"),
    ],
)
def test_one_line_names_option_value_and_remedy(arguments: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(arguments.split())
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
