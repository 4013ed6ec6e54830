"""segformer.py: parts by eye; names and shapes against the authors', numbers where another implementation imports.

Compared once, float64, same weights in, largest difference of the features: segmentation_models.pytorch 0.6.0, whose
encoder is the authors' code: MiT-B0, -B1, -B2 9e-15, and the whole network up to the classifier 1.2e-14 (torch 2.13.0,
CPU).
"""

import pytest
import torch
from helpers import digest, randomise, reference

from networks import segformer


def test_maps_and_tokens_share_channels_last_memory():
    x = torch.rand(2, 5, 3, 4).to(memory_format=torch.channels_last)
    tokens = segformer.to_tokens(x)
    assert tokens.shape == (2, 12, 5) and tokens.is_contiguous()
    assert torch.equal(tokens[1, 7], x[1, :, 1, 3])  # the eighth pixel in row order
    back = segformer.to_map(tokens, 3, 4)
    assert torch.equal(back, x) and back.data_ptr() == x.data_ptr()


def test_attention_is_softmax_of_queries_and_keys():
    torch.manual_seed(0)
    layer = segformer.Attention(4, 1, 1)
    x = torch.rand(1, 6, 4)
    k, v = layer.kv(x).split(4, dim=-1)
    expected = layer.proj(torch.softmax(layer.q(x) @ k.transpose(1, 2) / 2, -1) @ v)  # 2 is the root of 4 channels
    assert torch.allclose(layer(x, 2, 3), expected, atol=1e-6)


def test_reduced_attention_has_few_keys():
    layer = segformer.Attention(8, 2, 4)
    keys = []
    layer.kv.register_forward_hook(lambda module, inputs, output: keys.append(output.shape[1]))
    assert layer(torch.rand(1, 64 * 32, 8), 64, 32).shape == (1, 64 * 32, 8)
    assert keys == [16 * 8]


@pytest.mark.parametrize("name, keys, fingerprint, parameters", [("mit_b0", 176, "61a1a4392d21216c", 3_319_392),
                                                                 ("mit_b1", 176, "5b8a6c1d7abb1add", 13_151_424),
                                                                 ("mit_b2", 332, "49e67a6477b62b5f", 24_196_288)])
def test_names_and_shapes_are_the_authors(name, keys, fingerprint, parameters):
    model = segformer.MixTransformer(name, 3)
    state = model.state_dict()
    width = model.widths[0]
    assert state["patch_embed1.proj.weight"].shape == (width, 3, 7, 7)
    assert state["block1.0.attn.sr.weight"].shape == (width, width, 8, 8)
    assert state["block1.0.mlp.dwconv.dwconv.weight"].shape == (4 * width, 1, 3, 3)
    assert "block4.0.attn.sr.weight" not in state
    assert (model.block1[0].norm1.eps, model.norm4.eps, model.patch_embed1.norm.eps) == (1e-6, 1e-6, 1e-5)
    assert digest(state) == (keys, fingerprint)
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize("name, millions", [("mit_b0", 3.8), ("mit_b1", 13.7), ("mit_b2", 27.5)])
def test_parameters_of_the_paper(name, millions):
    model = segformer.SegFormer(segformer.MixTransformer(name, 3), 150)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == millions


def test_feature_sizes():
    model = segformer.MixTransformer("mit_b0", 4)
    features = model(torch.rand(1, 4, 64, 96))
    assert [tuple(f.shape[1:]) for f in features] == [(32, 16, 24), (64, 8, 12), (160, 4, 6), (256, 2, 3)]


@pytest.mark.parametrize("name", segformer.TRANSFORMERS)
def test_same_numbers_as_another_implementation(name):
    peer = reference("segmentation_models_pytorch").Segformer(
        name, encoder_weights=None, decoder_segmentation_channels=768 if name == "mit_b2" else 256)
    peer = randomise(peer)
    ours = segformer.SegFormer(segformer.MixTransformer(name, 3), 2).double().eval()
    ours.encoder.load_state_dict(peer.encoder.state_dict())
    for stage, linear in enumerate(reversed(peer.decoder.mlp_stage)):  # theirs starts at the deepest
        ours.linear[stage].weight.data = linear.linear.weight.data[:, :, None, None]
        ours.linear[stage].bias.data = linear.linear.bias.data
    ours.fuse.load_state_dict(peer.decoder.fuse_stage.state_dict())
    fused = []
    ours.fuse.register_forward_hook(lambda module, inputs, output: fused.append(output))
    x = torch.rand(2, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        theirs = peer.encoder(x)
        for feature, target in zip(ours.encoder(x), theirs[-4:], strict=True):
            assert (feature - target).abs().max() < 1e-10
        ours(x)
        assert (fused[0] - peer.decoder(theirs)).abs().max() < 1e-10
