"""networks/segformer.py: parts by eye, names and shapes against the authors'.

Compared once with segmentation_models.pytorch 0.6.0, whose encoder is the authors' code, same
weights, float64: largest difference of the features of MiT-B0, -B1, -B2 9e-15, of the whole network
up to the classifier 1.2e-14 (torch 2.13.0, CPU).
"""

import pytest
import torch
from helpers import digest, randomise, reference

from networks.segformer import TRANSFORMERS, Attention, MixTransformer, SegFormer, to_map, to_tokens


def test_to_tokens__and_back_share_channels_last_memory():
    x = torch.rand(2, 5, 3, 4).to(memory_format=torch.channels_last)
    tokens = to_tokens(x)
    assert tokens.shape == (2, 12, 5)
    assert tokens.is_contiguous()
    assert torch.equal(tokens[1, 7], x[1, :, 1, 3])  # the eighth pixel in row order
    back = to_map(tokens, 3, 4)
    assert torch.equal(back, x)
    assert back.data_ptr() == x.data_ptr()


def test_attention__is_softmax_of_queries_and_keys():
    torch.manual_seed(0)
    layer = Attention(4, heads=1, reduction=1)
    x = torch.rand(1, 6, 4)
    keys, values = layer.kv(x).split(4, dim=-1)
    scores = layer.q(x) @ keys.transpose(1, 2) / 2  # 2 is the root of 4 channels
    expected = layer.proj(torch.softmax(scores, -1) @ values)
    assert torch.allclose(layer(x, 2, 3), expected, atol=1e-6)


def test_attention__reduced_has_fewer_keys():
    layer = Attention(8, heads=2, reduction=4)
    keys = []
    layer.kv.register_forward_hook(lambda module, inputs, output: keys.append(output.shape[1]))
    assert layer(torch.rand(1, 64 * 32, 8), 64, 32).shape == (1, 64 * 32, 8)
    assert keys == [16 * 8]


@pytest.mark.parametrize("name, keys, fingerprint, parameters", [
    ("mit_b0", 176, "61a1a4392d21216c", 3_319_392),
    ("mit_b1", 176, "5b8a6c1d7abb1add", 13_151_424),
    ("mit_b2", 332, "49e67a6477b62b5f", 24_196_288),
])
def test_mix_transformer__names_and_shapes_are_the_authors(name, keys, fingerprint, parameters):
    with torch.device("meta"):
        model = MixTransformer(name, 3)
    assert digest(model.state_dict()) == (keys, fingerprint)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert model.block1[0].norm1.eps == 1e-6
    assert model.norm4.eps == 1e-6
    assert model.patch_embed1.norm.eps == 1e-5


@pytest.mark.parametrize("name, millions", [("mit_b0", 3.8), ("mit_b1", 13.7), ("mit_b2", 27.5)])
def test_segformer__has_the_papers_parameters(name, millions):
    with torch.device("meta"):
        model = SegFormer(MixTransformer(name, 3), 150)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == millions


def test_mix_transformer__features():
    model = MixTransformer("mit_b0", 4)
    shapes = [tuple(feature.shape) for feature in model(torch.rand(1, 4, 64, 96))]
    assert shapes == [(1, 32, 16, 24), (1, 64, 8, 12), (1, 160, 4, 6), (1, 256, 2, 3)]


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_segformer__same_numbers_as_another_implementation(name):
    smp = reference("segmentation_models_pytorch")
    channels = 768 if name == "mit_b2" else 256
    peer = smp.Segformer(name, encoder_weights=None, decoder_segmentation_channels=channels)
    peer = randomise(peer)
    ours = SegFormer(MixTransformer(name, 3), 2).double().eval()
    ours.encoder.load_state_dict(peer.encoder.state_dict())
    deepest_first = reversed(peer.decoder.mlp_stage)
    for stage, linear in enumerate(deepest_first):
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
