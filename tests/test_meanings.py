"""What a run means by its flags: the steps of a tiny run, watched one by one."""

import math
import types

import numpy as np
import pytest
import tifffile
import torch
from helpers import TINY, run, write_set

import data as tiles_module
import evaluate
import train
from data import Augmentation, TileDataset, augment, draw_views
from engine.checkpoint import load_checkpoint
from geo.raster import open_raster
from losses import build_loss
from metrics import ConfusionMatrix
from unet import BasicBlock, Bottleneck

CPU = torch.device("cpu")
EPOCHS = 2  # of 3, after which the run is paused
STEPS = 2  # per epoch
TOTAL = 3 * STEPS


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """What each step of one run is told: {name: list with an entry per step or epoch}."""
    folder = tmp_path_factory.mktemp("watched")
    write_set(folder / "data", count=4, side=8)
    seen = {}

    def watch(patch, module, name, look):
        real = getattr(module, name)

        def watching(*arguments, **options):
            result = real(*arguments, **options)
            seen.setdefault(name, []).append(look(*arguments))
            return result

        patch.setattr(module, name, watching)

    with pytest.MonkeyPatch.context() as patch:
        watch(patch, tiles_module, "draw_views",
              lambda labels, bands, how, seed, epoch, places, ignore: (epoch, [*places]))
        watch(patch, tiles_module, "epoch_order", lambda count, seed, epoch, passes: epoch)
        watch(patch, train, "optimizer_step",
              lambda run, args, done: run.optimizer.param_groups[0]["lr"])
        watch(patch, train, "update_ema", lambda ema, model, decay, updates: (decay, updates))
        watch(patch, train, "evaluate",
              lambda model, tiles, *rest: (tiles.points, tiles.labelled_pixels, model.training))
        words = ["--data", str(folder / "data"), *TINY, "--epochs", "3", "--stop-after",
                 str(EPOCHS), "--ema", "0.9", "--lr", "0.1", "--out",
                 str(folder / "run")]
        args = train.parse_args(words)
        train.main(args)
    return seen, args, folder


def test_optimizer_step__the_schedule_spans_the_run(watched):
    seen, args, _ = watched
    assert seen["optimizer_step"] == [
        pytest.approx(train.learning_rate(args, step, TOTAL)) for step in range(EPOCHS * STEPS)]


def test_train_one_epoch__order_and_augmentation_are_the_epochs_own(watched):
    seen, _, _ = watched
    assert seen["epoch_order"] == list(range(EPOCHS))
    assert seen["draw_views"] == [
        (epoch, [2 * step, 2 * step + 1]) for epoch in range(EPOCHS) for step in range(STEPS)]


def test_optimizer_step__the_average_counts_the_steps_of_the_run(watched):
    seen, _, _ = watched
    assert seen["update_ema"] == [(0.9, step + 1) for step in range(EPOCHS * STEPS)]


def test_finish_epoch__validation_uses_every_label(watched):
    seen, _, folder = watched
    labels = np.load(folder / "data/val_labels.npy")
    assert seen["evaluate"] == [(None, labels.size, False)] * EPOCHS


class FixedScores(types.SimpleNamespace):
    """A confusion matrix of one mean IoU."""

    def miou(self):
        return self.score

    def pixel_accuracy(self):
        return 0.5


@pytest.mark.parametrize("scores, losses, best", [
    ([0.2, 0.5, 0.5, 0.1], [1, 1, 1, 1], 2), ([0.5, 0.5, 0.5, 0.2], [3, 1, 2, 0.5], 2),
    ([math.nan, math.nan], [1, math.nan], 1), ([0.0, math.nan, 0.1], [1, 1, 9], 3)],
    ids=["the first of equals", "the lower loss of equal scores", "nan is 0", "the highest"])
def test_finish_epoch__best_is_the_highest_score_then_the_lowest_loss(tmp_path, monkeypatch,
                                                                      scores, losses, best):
    """The run is stopped and resumed after each epoch but the first."""
    write_set(tmp_path / "data", count=2, side=8)
    left = zip(scores, losses)

    def evaluate(*_):
        score, loss = next(left)
        return FixedScores(score=score), loss

    monkeypatch.setattr(train, "evaluate", evaluate)
    for epoch in range(1, len(scores) + 1):
        resume = ["--resume"] if epoch > 1 else []
        run(str(tmp_path / "data"), tmp_path / "run", "--epochs", "9", "--stop-after", str(epoch),
            *resume)
    kept = load_checkpoint(tmp_path / "run/best.pt")["train"]
    assert kept["epoch"] == best
    assert kept["best"] == max(0.0 if math.isnan(score) else score for score in scores)


class Guess(torch.nn.Module):
    """Class 0 with logits that grow with the first band."""

    def forward(self, images):
        zeros = torch.zeros_like(images[:, :1])
        return torch.cat([images[:, :1], zeros, zeros], 1)


def test_evaluate__the_loss_is_of_all_labelled_pixels_of_all_batches(tmp_path):
    write_set(tmp_path, count=5)
    labels = np.load(tmp_path / "val_labels.npy")
    labels[:2, 1:] = 255  # batches of unequal weight
    np.save(tmp_path / "val_labels.npy", labels)
    tiles = TileDataset(tmp_path, "val")
    meta = tiles.meta
    _, loss = evaluate.evaluate(Guess(), tiles, meta, CPU, 2, build_loss("ce"))
    band = (torch.from_numpy(np.load(tmp_path / "val_images.npy")[..., 0]).double() - 100) / 50
    logits = torch.stack([band, 0 * band, 0 * band], 1)
    expected = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels).long(),
                                                 ignore_index=255)
    assert loss == pytest.approx(float(expected), rel=1e-5)


def test_build_loss__parts_of_a_batch_add_up_to_one_dice_loss():
    criterion = build_loss("dice")
    logits = torch.zeros(1, 2, 4, 4)
    labels = torch.ones(1, 4, 4, dtype=torch.uint8)
    assert float(criterion(logits, labels, None, 4)) == pytest.approx(
        float(criterion(logits, labels)) / 4)


def test_get_batch__the_upper_half_of_uint16_stays_positive(tmp_path):
    write_set(tmp_path, dtype="uint16")
    images = np.load(tmp_path / "train_images.npy")
    images[2] += 40_000
    np.save(tmp_path / "train_images.npy", images)
    batch, _ = TileDataset(tmp_path, "train").get_batch([2])
    values = tiles_module.normalise(batch, [0.0] * 3, [1.0] * 3)
    assert float(values.min()) >= 40_000


def test_draw_views__rotation_is_in_degrees():
    labels = torch.zeros(200, 8, 8, dtype=torch.uint8)
    how = Augmentation(flips=False, rotate=10, shift=0, jitter=0)
    frames = draw_views(labels, 1, how, 0, 0, range(200)).frames
    angles = torch.rad2deg(torch.atan2(frames[:, 1, 0], frames[:, 0, 0]))
    assert 8 < float(angles.abs().max()) <= 10
    assert abs(float(angles.mean())) < 1.5


def test_draw_views__a_crop_moved_onto_a_label_still_copies_whole_pixels():
    side = 16
    labels = torch.full((40, side, side), 255, dtype=torch.uint8)
    labels[:, 1, 14] = 3  # one corner, so that most crops are moved
    images = torch.arange(float(side * side)).reshape(1, 1, side, side).repeat(40, 1, 1, 1)
    views = draw_views(labels, 1, Augmentation(crop=7, jitter=0), 0, 0, range(40))
    moved, moved_labels = augment(images, labels, views)
    assert torch.allclose(moved, moved.round(), atol=1e-2)
    assert ((moved_labels != 255).sum((1, 2)) == 1).all()


def test_augment__a_shifted_image_is_reflected_and_not_padded():
    images = torch.full((30, 1, 8, 8), 5.0)
    labels = torch.zeros(30, 8, 8, dtype=torch.uint8)
    moved, moved_labels = augment(images, labels, draw_views(
        labels, 1, Augmentation(shift=0.4, jitter=0), 0, 0, range(30)))
    assert torch.allclose(moved, images) and (moved_labels == 255).any()


@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
def test_residual_blocks__end_in_a_relu(block):
    torch.manual_seed(0)
    assert float(block(3, 4, 1)(torch.randn(1, 3, 4, 4)).detach().min()) == 0


def test_confusion_matrix__kappa_and_mean_accuracy_where_rows_and_columns_differ():
    matrix = ConfusionMatrix(2)
    matrix.update(torch.tensor([0] * 5 + [1] * 3 + [0] + [1]), torch.tensor([0] * 8 + [1] * 2))
    assert matrix.counts.tolist() == [[5, 3], [1, 1]]
    chance = (8 * 6 + 2 * 4) / 100
    assert matrix.kappa() == pytest.approx((0.6 - chance) / (1 - chance))
    assert matrix.mean_accuracy() == pytest.approx((5 / 8 + 1 / 2) / 2)


@pytest.mark.parametrize("kind", ["unassalpha", "assocalpha"])
def test_open_raster__alpha_of_either_kind_marks_missing_pixels(tmp_path, kind):
    pixels = np.array([[[5, 5, 5, 0], [7, 7, 7, 9]]], np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", extrasamples=[kind])
    with open_raster(tmp_path / "a.tif") as raster:
        assert raster.alpha == 3
        assert raster.read_masked(0, 0, 1, 2)[1][:, :, 0].tolist() == [[True, False]]


def test_evaluate__logits_of_a_network_in_evaluation_mode(tmp_path):
    """Dropout is off, so that two passes give one answer."""
    write_set(tmp_path, count=4)
    tiles = TileDataset(tmp_path, "val")
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1), torch.nn.Dropout(0.9))
    one, other = (evaluate.evaluate(model.train(), tiles, tiles.meta, CPU)[0].counts
                  for _ in range(2))
    assert torch.equal(one, other) and not model.training
