"""An encoder normalizes its input itself."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sdclr.encoders import (
    Encoder,
    EncoderConfig,
    create_encoder,
)


def small(name: str = "resnet18", width: int | None = 4, image_size: int = 16) -> Encoder:
    return create_encoder(EncoderConfig(name=name, width=width), image_size)


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 2**31))
def test_bytes_and_floats_give_equal_features(seed: int) -> None:
    encoder = small().eval()
    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(encoder(images), encoder(images.float() / 255))


def test_the_input_is_normalized_inside() -> None:
    config = EncoderConfig(width=4, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0))
    encoder = create_encoder(config, 16).eval()
    images = torch.rand(2, 3, 16, 16)
    by_hand = torch.stack([(images[:, c] - config.mean[c]) / config.std[c] for c in range(3)], dim=1)
    torch.testing.assert_close(encoder(images), encoder.backbone(by_hand))
    assert "mean" not in encoder.state_dict()
