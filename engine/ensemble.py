"""Load several checkpoints as one network."""

from engine.checkpoint import find_checkpoint, load_model
from networks.ensemble import Ensemble

SAME = ("classes", "bands", "dtype", "mean", "std", "nodata", "scale")


def load_ensemble(paths, device="cpu"):
    """Load one checkpoint, or several as an `Ensemble`.

    Args:
        paths: run folders or checkpoints, of networks trained on the same prepared data.
        device: where the model goes.
    Returns:
        (model in eval mode, metadata: see `checkpoint_meta`). With several checkpoints the
        metadata is the first one's and has "members", their number.
    Raises:
        ValueError, OSError: as `load_model`, or the networks were trained on different data.
    """
    paths = [find_checkpoint(path) for path in paths]
    models = []
    for path in paths:
        model, meta = load_model(path, device)
        models.append(model)
        if path == paths[0]:
            first = meta
        for key in SAME:
            if meta.get(key) != first.get(key):
                raise ValueError(f"--checkpoint {paths[0]} and {path} were trained on data whose "
                                 f"{key} differ: average networks of the same prepared data")
    if len(models) == 1:
        return models[0], first
    return Ensemble(models), {**first, "members": len(models)}
