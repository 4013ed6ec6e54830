"""Frozen points, batches, normalisation and augmentation of prepared tiles."""

import dataclasses

import numpy as np
import pytest
import torch
from helpers import write_set

from data import (
    Augmentation,
    TileDataset,
    augment,
    draw_views,
    epoch_order,
    missing_pixels,
    normalise,
    prefetch,
    training_batches,
)
from engine.prepared import load_meta

STILL = Augmentation(flips=False, rotate=0, shift=0, zoom=1, crop=0, jitter=0)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_tiles_come_as_stored(tmp_path, dtype):
    write_set(tmp_path, dtype=dtype)
    images, labels = TileDataset(tmp_path, "train").get_batch([4, 1])
    assert np.array_equal(images.numpy(), np.load(tmp_path / "train_images.npy")[[4, 1]])
    assert np.array_equal(labels.numpy(), np.load(tmp_path / "train_labels.npy")[[4, 1]])


def test_over_three_epochs_no_more_than_n_k_labelled_pixels_are_ever_seen(tmp_path):
    write_set(tmp_path, count=5)
    tiles = TileDataset(tmp_path, "train", points=4)
    seen = set()
    for epoch in range(3):
        for start in range(0, 5, 2):
            order = epoch_order(5, 0, epoch)[start : start + 2]
            for tile, labels in zip(order, tiles.get_batch(order)[1]):
                seen |= {(int(tile), int(place)) for place in (labels.reshape(-1) != 255).nonzero()}
    assert len(seen) == 5 * 4 == tiles.labelled_pixels == tiles.class_counts.sum()


def test_points_are_the_true_labels_and_nested(tmp_path):
    write_set(tmp_path)
    truth = np.load(tmp_path / "train_labels.npy")
    few, many = (
        TileDataset(tmp_path, "train", points=k).get_batch(range(6))[1].numpy() for k in (2, 9)
    )
    assert ((few != 255) <= (many != 255)).all()
    assert np.array_equal(many[many != 255], truth[many != 255])


def test_labelled_pixels_is_the_sum_of_min_k_labelled(tmp_path):
    write_set(tmp_path)
    labels = np.load(tmp_path / "train_labels.npy")
    labels[0], labels[0, 0, :2], labels[1] = (
        255,
        1,
        255,
    )  # two labelled pixels in tile 0, none in tile 1
    np.save(tmp_path / "train_labels.npy", labels)
    tiles = TileDataset(tmp_path, "train", points=7)
    assert tiles.labelled_pixels == 2 + 0 + 4 * 7
    assert [len(chosen) for chosen in tiles.points] == [2, 0, 7, 7, 7, 7]
    assert (tiles.get_batch([1])[1] == 255).all()


def test_every_label_without_points(tmp_path):
    meta = write_set(tmp_path, ignore_share=0.5)
    assert TileDataset(tmp_path, "train").labelled_pixels == sum(meta["pixels"]["train"])


def test_a_split_without_tiles(tmp_path):
    write_set(tmp_path, count=0)
    load_meta(tmp_path)
    with pytest.raises(ValueError, match="no val tile"):
        TileDataset(tmp_path, "val")


def test_a_label_that_is_no_class(tmp_path):
    write_set(tmp_path)
    labels = np.load(tmp_path / "train_labels.npy")
    labels[3] = 9
    np.save(tmp_path / "train_labels.npy", labels)
    with pytest.raises(ValueError, match="tile 3 .*3 classes"):
        TileDataset(tmp_path, "train", points=5)
    tiles = TileDataset(tmp_path, "train")
    assert torch.equal(tiles.get_batch([4, 2])[1], torch.from_numpy(labels[[4, 2]]))
    with pytest.raises(ValueError, match="tile 3 .*3 classes"):
        tiles.get_batch([4, 3, 2])


@pytest.mark.parametrize("stranger", [3, 254])
def test_every_label_beyond_the_classes_is_refused_but_255(tmp_path, stranger):
    write_set(tmp_path, ignore_share=0.5)
    TileDataset(tmp_path, "train").get_batch(range(6))
    labels = np.load(tmp_path / "train_labels.npy")
    labels[5, 7, 7] = stranger
    np.save(tmp_path / "train_labels.npy", labels)
    with pytest.raises(ValueError, match="tile 5"):
        TileDataset(tmp_path, "train").get_batch([0, 5])


def test_normalise():
    images = torch.tensor([[[[0, 100], [10, 200]]]], dtype=torch.uint8)  # (1, 1, 2, 2)
    values = normalise(images, [10.0, 100.0], [5.0, 50.0])
    assert values[0, :, 0].tolist() == [
        [-2.0, 0.0],
        [0.0, 2.0],
    ]  # band 0 of both pixels, then band 1


@pytest.mark.parametrize("dtype", [torch.uint16, torch.int16])
def test_normalise_keeps_16_bits(dtype):
    images = torch.tensor([30000], dtype=torch.int32).to(dtype).reshape(1, 1, 1, 1)
    assert normalise(images, [0.0], [1.0]).item() == 30000
    assert normalise(images, [0.0], [1.0], nodata=30000).item() == 0


def test_missing_values_take_the_bands_mean():
    images = torch.tensor(
        [[[[float("nan"), 7.0], [float("inf"), 8.0], [-9999.0, -9999.0], [-9999.0, 5.0]]]]
    )
    values = normalise(images, [5.0, 6.0], [1.0, 1.0], nodata=-9999.0)
    assert values[0, :, 0].tolist() == [[0.0, 0.0, 0.0, -10004.0], [1.0, 2.0, 0.0, -1.0]]


def seen(images, labels, how, seed, epoch, places):
    """Draw views and cut them out, as a training step does."""
    views = draw_views(labels, images.shape[1], how, seed, epoch, places)
    return augment(images, labels, views)


def batch(count=8, side=12, bands=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, bands, side, side, generator=generator)
    return images, torch.randint(0, 5, (count, side, side), generator=generator, dtype=torch.uint8)


def test_no_augmentation_changes_nothing():
    images, labels = batch()
    moved, moved_labels = seen(images, labels, STILL, 0, 0, range(8))
    assert torch.allclose(moved, images, atol=1e-5) and torch.equal(moved_labels, labels)


def test_augmentation_depends_on_seed_epoch_and_place_alone():
    images, labels = batch()
    how = Augmentation(rotate=20, zoom=1.5)
    whole, whole_labels = seen(images, labels, how, 3, 2, range(8))
    part, part_labels = seen(images[4:6], labels[4:6], how, 3, 2, range(4, 6))
    assert torch.equal(whole[4:6], part) and torch.equal(whole_labels[4:6], part_labels)
    for other in ((4, 2), (3, 3)):
        assert not torch.equal(seen(images, labels, how, *other, range(8))[0], whole)


def test_flips_give_all_eight_symmetries_and_move_labels_with_the_image():
    tile = torch.arange(9.0).reshape(1, 1, 3, 3)
    images, labels = tile.repeat(200, 1, 1, 1), tile[:, 0].to(torch.uint8).repeat(200, 1, 1)
    how = Augmentation(flips=True, shift=0, jitter=0)
    moved, moved_labels = seen(images, labels, how, 0, 0, range(200))
    assert torch.allclose(moved[:, 0], moved_labels.float(), atol=1e-5)
    found = {tuple(label.reshape(-1).tolist()) for label in moved_labels}
    expected = {
        tuple(np.rot90(side, turns).reshape(-1).tolist())
        for side in (tile[0, 0].numpy(), tile[0, 0].numpy().T)
        for turns in range(4)
    }
    assert found == expected


def test_a_shift_reflects_the_image_and_knows_nothing_of_what_it_uncovers():
    side = 8
    images = (
        torch.arange(float(side)).expand(1, 1, side, side).contiguous()
    )  # the value is the column
    labels = torch.zeros(1, side, side, dtype=torch.uint8)
    for place in range(20):
        how = Augmentation(flips=False, shift=0.5, jitter=0)
        moved, moved_labels = seen(images, labels, how, 0, 0, [place])
        assert (
            0 <= moved.min() and moved.max() <= side - 1
        )  # reflected: no value that was not there
        unknown = (moved_labels == 255)[0]
        rows, cols = unknown.all(1).sum(), unknown.all(0).sum()
        assert (
            unknown.sum() == rows * side + cols * side - rows * cols
        )  # whole rows and columns at the border
        known = moved[0, 0][:, ~unknown.all(0)]
        steps = known[:, 1:] - known[:, :-1]
        assert torch.allclose(
            steps[:, 1:-1], torch.ones_like(steps[:, 1:-1]), atol=1e-4
        )  # where it is known it only moved


def test_labels_are_moved_by_nearest_pixel():
    images, labels = batch()
    labels[labels == 3] = 0  # a class number that only interpolation could make
    _, moved = seen(images, labels, Augmentation(rotate=45, zoom=2, shift=0.3), 0, 0, range(8))
    assert set(moved.unique().tolist()) <= {0, 1, 2, 4, 255}


def test_crops_are_cut_out_of_the_tile():
    images, labels = batch(count=50)
    moved, moved_labels = seen(
        images, labels, Augmentation(flips=False, shift=0, jitter=0, crop=5), 0, 0, range(50)
    )
    assert moved.shape == (50, 3, 5, 5) and moved_labels.shape == (50, 5, 5)
    assert (moved_labels != 255).all()  # without a shift a crop stays inside


def lonely_labels(*pixels, count=400, side=16):
    """Labels (count, side, side) at a few pixels only: class 1 at the first, 2 at the next."""
    labels = torch.full((count, side, side), 255, dtype=torch.uint8)
    for label, (row, column) in enumerate(pixels, 1):
        labels[:, row, column] = label
    return labels


@pytest.mark.parametrize(
    "how",
    [
        Augmentation(crop=5),
        Augmentation(crop=12, shift=0.3),
        Augmentation(shift=0.5),
        Augmentation(crop=1, shift=0),
    ],
)
@pytest.mark.parametrize("pixel", [(0, 0), (15, 3), (7, 8)])
def test_a_crop_holds_the_only_label_of_its_tile(how, pixel):
    images = torch.rand(150, 1, 16, 16)
    images[:, 0, pixel[0], pixel[1]] = 9
    still = dataclasses.replace(how, jitter=0)
    moved, labels = seen(images, lonely_labels(pixel, count=150), still, 0, 0, range(150))
    assert ((labels == 1).flatten(1).sum(1) == 1).all() and (labels[labels != 255] == 1).all()
    assert (moved[:, 0][labels == 1] - 9).abs().max() < 1e-3  # the image moved with it


@pytest.mark.parametrize("corner", [(0, 0), (20, 30), (0, 40)])
def test_the_label_does_not_fall_into_a_corner_that_a_free_rotation_cuts_off(corner):
    """Three by three pixels, because nearest sampling may miss a single one."""
    labels = torch.full((1000, 48, 48), 255, dtype=torch.uint8)
    labels[:, corner[0] : corner[0] + 3, corner[1] : corner[1] + 3] = 1
    _, moved = seen(
        torch.zeros(1000, 1, 48, 48), labels, Augmentation(crop=20, rotate=45), 0, 0, range(1000)
    )
    assert (moved == 1).flatten(1).any(
        1
    ).float().mean() > 0.99  # without looking for corners: 0.89 to 0.95


def test_the_label_lies_anywhere_in_the_crop_alike():
    labels = seen(
        torch.rand(3000, 1, 16, 16),
        lonely_labels((7, 8), count=3000),
        Augmentation(crop=4, shift=0),
        0,
        0,
        range(3000),
    )[1]
    where = (labels == 1).float().mean(0) * 16
    assert where.min() > 0.7 and where.max() < 1.3


def test_of_several_labels_each_draws_crops_alike():
    labels = lonely_labels((0, 0), (15, 15), (15, 14), count=3000)
    moved = seen(
        torch.rand(3000, 1, 16, 16), labels, Augmentation(crop=1, shift=0), 0, 0, range(3000)
    )[1].flatten()
    assert all(abs(int((moved == label).sum()) - 1000) < 100 for label in (1, 2, 3))


def test_a_crop_that_holds_a_label_and_a_tile_that_has_none_stay_as_they_were_drawn():
    images, how = torch.rand(200, 1, 16, 16), Augmentation(crop=6, shift=0.2)
    everywhere = seen(images, torch.zeros(200, 16, 16, dtype=torch.uint8), how, 0, 0, range(200))
    nowhere = seen(images, lonely_labels(count=200), how, 0, 0, range(200))
    assert torch.equal(everywhere[0], nowhere[0]) and (nowhere[1] == 255).all()
    lonely = seen(images, lonely_labels((7, 7), (2, 13), count=200), how, 0, 0, range(200))
    there = torch.ones(200, 1, 16, 16).masked_fill(
        lonely_labels((7, 7), (2, 13), count=200)[:, None] != 255, 0
    )
    held = seen(
        there,
        torch.zeros(200, 16, 16, dtype=torch.uint8),
        dataclasses.replace(how, jitter=0),
        0,
        0,
        range(200),
    )
    held = ((held[0][:, 0] < 0.5) & (held[1] != 255)).flatten(1).any(1)
    assert 20 < held.sum() < 180 and torch.equal(lonely[0][held], everywhere[0][held])
    assert (lonely[1] != 255).flatten(1).any(1).all()


@pytest.mark.parametrize("side, target", [(12, 0), (12, 7), (13, 6), (9, 9)])
def test_without_free_rotation_and_zoom_pixels_are_copied_and_not_blurred(side, target):
    images = (
        torch.arange(side * side, dtype=torch.float32).reshape(1, 1, side, side).repeat(6, 1, 1, 1)
    )
    labels = torch.zeros(6, side, side, dtype=torch.uint8)
    moved, _ = seen(images, labels, Augmentation(shift=0.2, crop=target, jitter=0), 0, 0, range(6))
    assert (moved - moved.round()).abs().max() < 1e-3


def test_zoom_sees_less_or_more_ground():
    images = torch.arange(32.0).expand(40, 1, 32, 32).contiguous()
    labels = torch.zeros(40, 32, 32, dtype=torch.uint8)
    moved, _ = seen(
        images, labels, Augmentation(flips=False, shift=0, jitter=0, zoom=2), 0, 0, range(40)
    )
    slope = (moved[:, 0, 16, 17] - moved[:, 0, 16, 16]).abs()
    assert slope.min() < 0.7 and slope.max() > 1.4 and (slope < 2.01).all() and (slope > 0.49).all()


def test_jitter_scales_and_shifts_bands():
    images = torch.stack([torch.zeros(3, 4, 4), torch.ones(3, 4, 4)])
    moved, _ = seen(
        images,
        torch.zeros(2, 4, 4, dtype=torch.uint8),
        Augmentation(False, shift=0, jitter=0.2),
        0,
        0,
        [5, 5],
    )
    offset, gain = moved[0], moved[1] - moved[0]
    assert (offset.std((1, 2)) < 1e-5).all() and len(
        offset[:, 0, 0].unique()
    ) == 3  # one offset a band
    assert (
        offset.abs().max() <= 0.3 and (gain.log().abs() <= 0.3 + 1e-5).all() and (gain != 1).any()
    )


def test_epochs_visit_every_tile_once_in_an_order_of_their_own():
    orders = [epoch_order(20, 0, epoch).tolist() for epoch in range(3)]
    assert all(sorted(order) == list(range(20)) for order in orders)
    assert orders[0] != orders[1] != orders[2] and orders[1] == epoch_order(20, 0, 1).tolist()


def test_prefetch_keeps_order_and_hands_on_errors():
    assert list(prefetch(lambda x: x * x, range(5))) == [0, 1, 4, 9, 16]
    assert list(prefetch(lambda x: x, [])) == []

    def fail(item):
        if item == 2:
            raise ValueError("tile 2 is damaged")
        return item

    made = prefetch(fail, range(5))
    assert [next(made), next(made)] == [0, 1]
    with pytest.raises(ValueError, match="tile 2"):
        next(made)


def test_missing_pixels__all_bands_nodata_or_not_finite():
    nan = float("nan")
    images = torch.tensor([[[[nan, nan], [nan, 1.0], [-9.0, -9.0], [-9.0, nan], [-9.0, 2.0]]]])
    assert missing_pixels(images, -9.0).tolist() == [[[True, False, True, True, False]]]
    assert missing_pixels(images).tolist() == [[[True, False, False, False, False]]]


def test_training_batches__every_tile_once_and_shared_among_processes(tmp_path):
    write_set(tmp_path, count=6)
    tiles = TileDataset(tmp_path, "train")
    whole = list(training_batches(tiles, STILL, 0, 3, 2, range(3)))
    assert [batch.step for batch in whole] == [0, 1, 2]
    order = epoch_order(6, 0, 3)
    assert sorted(order) == list(range(6))
    assert torch.equal(torch.cat([batch.images for batch in whole]), tiles.images[order])
    for rank in range(2):
        for batch, one in zip(whole, training_batches(tiles, STILL, 0, 3, 2, range(3), rank, 2)):
            assert torch.equal(one.images[0], batch.images[rank])
    later = list(training_batches(tiles, STILL, 0, 3, 2, range(2, 3)))
    assert [batch.step for batch in later] == [2] and torch.equal(later[0].images, whole[2].images)
    large = list(training_batches(tiles, STILL, 0, 3, 50, range(1)))
    assert len(large[0].images) == 6
