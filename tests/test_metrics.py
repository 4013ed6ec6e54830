"""Scores of a 3 x 3 image that can be counted by hand, also where a class is missing."""

import json
import math

import numpy as np
import pytest
import torch

from metrics import ConfusionMatrix, class_map
from report.tables import score_table

TRUTH = torch.tensor([[0, 0, 0], [1, 1, 255], [0, 1, 255]])
GUESS = torch.tensor([[0, 0, 1], [1, 1, 0], [0, 0, 2]])
# Of seven labelled pixels: class 0 is found 3 of 4 times, class 1 2 of 3 times; one pixel of each
# is taken for the other.


def matrix_3x3():
    matrix = ConfusionMatrix(3)
    matrix.update(GUESS, TRUTH)
    return matrix


def test_update__counts_by_hand():
    counts = matrix_3x3().counts
    assert counts.tolist() == [[3, 1, 0], [1, 2, 0], [0, 0, 0]]
    assert counts.dtype == torch.int64


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.uint32, np.int64])
def test_update__takes_integers_of_every_type(dtype):
    matrix = ConfusionMatrix(2)
    matrix.update(np.array([0, 1, 1], dtype), np.array([0, 1, 255], dtype))
    assert matrix.counts.tolist() == [[1, 0], [0, 1]]


def test_update__batches_may_be_cut_anyhow():
    generator = np.random.default_rng(0)
    guess, truth = generator.integers(0, 5, (2, 7, 40, 40)).astype(np.uint8)
    truth[generator.random(truth.shape) < 0.3] = 255
    whole = ConfusionMatrix(5)
    whole.update(guess, truth)
    parts = ConfusionMatrix(5)
    for i in range(7):
        parts.update(guess[i], truth[i])
    assert torch.equal(whole.counts, parts.counts)
    for k in range(5):  # against float64 written out
        hits = np.sum((guess == k) & (truth == k), dtype=np.float64)
        union = np.sum(((guess == k) & (truth != 255)) | (truth == k), dtype=np.float64)
        assert float(whole.iou()[k]) == pytest.approx(hits / union, abs=1e-15)


@pytest.mark.parametrize("classes", [1, 2, 127, 128, 129, 200, 255])
def test_update__any_number_of_classes(classes):
    values = torch.arange(classes)
    matrix = ConfusionMatrix(classes)
    matrix.update(values, values)
    matrix.update(values[:1], torch.tensor([255]))
    assert torch.equal(matrix.counts, torch.eye(classes, dtype=torch.int64))


def test_update__another_ignored_label():
    matrix = ConfusionMatrix(2, ignore=9)
    matrix.update(torch.tensor([0, 1]), torch.tensor([9, 1]))
    assert matrix.counts.tolist() == [[0, 0], [0, 1]]


@pytest.mark.parametrize("guess, truth, where", [
    ([0, 2], [0, 1], "prediction .* 0 to 2"),
    ([0, -1], [0, 1], "prediction .* -1"),
    ([0, 1], [0, 7], "truth .* 7"),
    ([0, 1], [0, 300], "truth .* 300"),
    ([0, 1], [0, -1], "truth .* -1"),
    ([0, 1], [0, 2 ** 32], "truth .* 4294967296"),
    ([0, 1, 1], [0, 1], "differ in size"),
])
def test_update__refuses_what_is_out_of_range_and_counts_nothing(guess, truth, where):
    matrix = ConfusionMatrix(2)
    with pytest.raises(ValueError, match=where):
        matrix.update(torch.tensor(guess), torch.tensor(truth))
    assert matrix.counts.sum() == 0


@pytest.mark.parametrize("classes, ignore", [(0, 255), (256, 255), (5, 4), (5, 256)])
def test_confusion_matrix__refuses_impossible_sizes(classes, ignore):
    with pytest.raises(ValueError):
        ConfusionMatrix(classes, ignore)


def test_scores_per_class__by_hand():
    matrix = matrix_3x3()
    assert matrix.iou()[:2].tolist() == [3 / 5, 2 / 4]
    assert matrix.dice()[:2].tolist() == pytest.approx([6 / 8, 4 / 6])
    assert matrix.precision()[:2].tolist() == [3 / 4, 2 / 3]
    assert matrix.recall()[:2].tolist() == [3 / 4, 2 / 3]
    assert matrix.pixel_accuracy() == pytest.approx(5 / 7)
    assert matrix.mean_accuracy() == pytest.approx((3 / 4 + 2 / 3) / 2)


def test_kappa__by_hand():
    observed = 5 / 7
    chance = (4 * 4 + 3 * 3) / 49
    assert matrix_3x3().kappa() == pytest.approx((observed - chance) / (1 - chance))


def test_miou__absent_class_is_nan_and_not_in_the_mean():
    matrix = matrix_3x3()
    for scores in (matrix.iou(), matrix.dice(), matrix.precision(), matrix.recall()):
        assert math.isnan(scores[2])
    assert matrix.miou() == pytest.approx((3 / 5 + 2 / 4) / 2)
    assert matrix.scored_classes() == 2


def test_miou__perfect_prediction_scores_1_with_a_class_missing():
    matrix = ConfusionMatrix(3)
    matrix.update(torch.tensor([0, 0, 1]), torch.tensor([0, 0, 1]))
    assert matrix.miou() == 1.0


def test_miou__all_background_is_no_good_score():
    matrix = ConfusionMatrix(2)
    matrix.update(torch.zeros(10, dtype=torch.uint8), torch.tensor([0] * 9 + [1]))
    assert matrix.iou().tolist() == [0.9, 0.0]
    assert matrix.miou() == 0.45


def test_iou__class_predicted_where_it_never_is_scores_0():
    matrix = ConfusionMatrix(2)
    matrix.update(torch.tensor([0, 1]), torch.tensor([0, 0]))
    assert matrix.iou().tolist() == [0.5, 0.0]
    assert math.isnan(matrix.recall()[1])
    assert matrix.precision()[1] == 0


def test_miou__nothing_counted_is_nan():
    matrix = ConfusionMatrix(2)
    matrix.update(torch.empty(0, dtype=torch.uint8), torch.empty(0, dtype=torch.uint8))
    matrix.update(torch.tensor([1]), torch.tensor([255]))
    for score in (matrix.miou(), matrix.pixel_accuracy(), matrix.kappa()):
        assert math.isnan(score)


def test_scores__are_json_with_null_for_nan():
    scores = json.loads(json.dumps(matrix_3x3().scores(["a", "b", "c"]), allow_nan=False))
    assert scores["classes"][2] == {"name": "c", "iou": None, "dice": None, "precision": None,
                                    "recall": None, "pixels": 0}
    assert scores["classes"][0]["pixels"] == 4
    assert scores["confusion"][0] == [3, 1, 0]
    assert scores["miou"] == pytest.approx(0.55)
    assert scores["scored_classes"] == 2


def test_score_table__lines_up_and_names_what_the_scores_are_over():
    lines = score_table(matrix_3x3(), ["water", "a very long class name", "c"]).splitlines()
    assert len({len(line) for line in lines[:4]}) == 1
    assert lines[3].split()[:3] == ["c", "-", "-"]
    assert "0.550" in lines[4]
    assert "over 2 of 3 classes" in lines[4]
    assert "over 7 labelled pixels" in lines[4]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_class_map__is_argmax(memory_format):
    logits = torch.randn(2, 7, 9, 11).contiguous(memory_format=memory_format)
    classes = class_map(logits)
    assert classes.dtype == torch.uint8
    assert torch.equal(classes.long(), logits.argmax(1))
