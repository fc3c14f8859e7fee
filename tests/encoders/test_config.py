"""Settings of encoders and heads."""

import pytest

from sdclr.config import from_json, to_json
from sdclr.encoders import (
    EncoderConfig,
    HeadConfig,
)
from sdclr.errors import InputError


def test_encoders_described_before_there_were_patches_are_read() -> None:
    values = to_json(EncoderConfig(width=4))
    del values["patch"]
    assert from_json(EncoderConfig, values) == EncoderConfig(width=4)


@pytest.mark.parametrize(
    "values", [{"width": 0}, {"std": (1.0, 0.0, 1.0)}, {"patch": 0}, {"patch": 4, "stem": "small"}]
)
def test_nonsense_encoders_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(InputError):
        EncoderConfig(**values)  # type: ignore[arg-type]  # parametrized
    with pytest.raises(InputError):
        HeadConfig(dim=0)
