"""The table of networks."""

from unet import UNet


def build_model(name, bands, classes, encoder=None, width=16, depth=4, fusion="none", stem=1, dropout=0.0,
                weights=None):
    """Build a network by name.

    Returns:
        nn.Module, (B, bands, H, W) -> (B, classes, H, W) logits, with `stride` and `radius`, px.
    Raises:
        ValueError: an unknown name, or an argument out of range.
    """
    if name != "unet":
        raise ValueError(f"--model {name}: unknown; choose from unet")
    return UNet(bands, classes, width, depth, stem=stem, dropout=dropout)
