"""Forgetting, and the networks it is measured by."""

import numpy as np
import pytest
import torch

from sdclr.encoders import wrap_encoder
from sdclr.errors import InputError
from sdclr.method import magnitude_masks
from sdclr.mining.forgetting import forgetting, load_networks, own_normalization, pruned_copies
from sdclr.training.run import Run

IMAGES = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def outputs(module):
    with torch.no_grad():
        return module(IMAGES)


def zeros(network):
    weights = [m.weight for m in network.encoder.modules() if isinstance(m, torch.nn.Conv2d)]
    return sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)


def test_forgetting_is_one_minus_the_cosine():
    a, b = np.random.default_rng(0).normal(size=(2, 6, 4))
    expected = 1 - (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    np.testing.assert_allclose(forgetting(torch.tensor(a), torch.tensor(b)).numpy(), expected, rtol=1e-5)
    np.testing.assert_allclose(forgetting(torch.tensor(a), torch.tensor(3 * a)).numpy(), 0, atol=1e-6)


def test_at_its_own_ratio_a_run_is_pruned_as_it_was_trained(sdclr_run):
    (state,) = load_networks(sdclr_run, [0.5])
    objective = sdclr_run.objective()
    torch.testing.assert_close(outputs(state.dense), outputs(objective.network))
    torch.testing.assert_close(outputs(state.pruned[0.5]), outputs(objective.competitor))
    assert state.second is state.pruned[0.5]
    assert own_normalization(sdclr_run)
    assert not torch.allclose(outputs(state.dense), outputs(state.second))


def test_other_ratios_are_masked_anew_with_the_branchs_own_normalization(sdclr_run):
    (state,) = load_networks(sdclr_run, [0.0, 0.8])
    competitor = sdclr_run.objective().competitor
    competitor.ratio = 0.8
    competitor.refresh()
    torch.testing.assert_close(outputs(state.pruned[0.8]), outputs(competitor))
    assert zeros(state.pruned[0.8]) == pytest.approx(0.8, abs=1e-3)
    assert zeros(state.dense) < 0.01
    # Nothing is removed, yet normalization differs from the dense branch's.
    assert not torch.allclose(outputs(state.pruned[0.0]), outputs(state.dense))


def test_a_run_without_pruning_shares_its_normalization(simclr_run):
    (state,) = load_networks(simclr_run, [0.0, 0.6])
    network = simclr_run.objective().network
    assert not own_normalization(simclr_run)
    assert state.second is state.dense
    torch.testing.assert_close(outputs(state.pruned[0.0]), outputs(network))
    names = {
        f"{name}.weight"
        for name, module in network.named_modules()
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)) and name.startswith("encoder.")
    }
    weights = {name: weight.detach() for name, weight in network.named_parameters() if name in names}
    for name, mask in magnitude_masks(weights, 0.6).items():
        network.get_parameter(name).data *= mask
    torch.testing.assert_close(outputs(state.pruned[0.6]), outputs(network))


def test_older_checkpoints(sdclr_run):
    newest, older = load_networks(sdclr_run, [0.5], checkpoints=2)
    assert not torch.allclose(outputs(newest.dense), outputs(older.dense))
    with pytest.raises(InputError, match="holds 2 checkpoints, not 3"):
        load_networks(sdclr_run, [0.5], checkpoints=3)


def test_what_cannot_be_loaded_is_named(sdclr_run, tmp_path):
    (tmp_path / "config.json").write_bytes(sdclr_run.config_file.read_bytes())
    with pytest.raises(InputError, match="holds no whole checkpoint"):
        load_networks(Run(tmp_path), [0.5])
    (tmp_path / "checkpoints").mkdir()
    for path in sdclr_run.checkpoints.iterdir():
        (tmp_path / "checkpoints" / path.name).write_bytes(path.read_bytes())
    oldest = min((tmp_path / "checkpoints").glob("*.pt"))
    oldest.write_bytes(oldest.read_bytes()[:500])
    assert len(load_networks(Run(tmp_path), [0.5])) == 1
    with pytest.raises(InputError, match=f"{oldest.name} cannot be read"):
        load_networks(Run(tmp_path), [0.5], checkpoints=2)


def test_an_encoder_without_a_run_is_pruned_by_magnitude(simclr_run):
    encoder = simclr_run.encoder()
    state = pruned_copies(encoder, [0.0, 0.6])
    (expected,) = load_networks(simclr_run, [0.6])
    torch.testing.assert_close(outputs(state.dense.encoder), outputs(encoder))
    torch.testing.assert_close(outputs(state.pruned[0.0].encoder), outputs(encoder))
    # Weights of equal size may be cut at another place, but not of this many.
    assert zeros(state.pruned[0.6]) == pytest.approx(0.6, abs=1e-3)
    torch.testing.assert_close(outputs(state.pruned[0.6].encoder), outputs(expected.pruned[0.6].encoder))
    assert state.second is state.dense
    assert not any(network.training for network in (state.dense, *state.pruned.values()))


def test_an_encoder_without_prunable_weights_is_refused():
    plain = wrap_encoder(torch.nn.Sequential(torch.nn.AvgPool2d(4), torch.nn.Flatten()), image_size=8)
    with pytest.raises(InputError, match="--ratios: "):
        pruned_copies(plain, [0.5])
