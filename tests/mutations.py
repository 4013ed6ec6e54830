"""Break one meaning of the code at a time, and check that a test fails for each.

    python tests/mutations.py            all of them
    python tests/mutations.py weak       those whose description holds a word

copies the project to a temporary folder, replaces one piece of text in one file, and runs the tests
that should notice, up to the first failure. The results of all become the table in README.md beside
this file. A text that is not in its file exactly once is an error, and so is a change that no test
notices: exit code 1.
"""

import contextlib
import io
import multiprocessing
import os
import pathlib
import shutil
import sys
import tempfile

import pytest
import torch  # noqa: F401, so that the processes below need not import it again

TESTS = pathlib.Path(__file__).resolve().parent
NOT_COPIED = {".git", "data", "runs", "sweeps", "results", "docs"}  # at the top of the project
HEAD = """# Tests of the tests

`python -m pytest` runs the tests. `--slow` adds those that take more than five seconds, and
`--fuzz 1000` tries a thousand damaged inputs.

Does a test fail when the code is wrong? Each row below is one change that makes the code wrong,
and the first test that failed because of it. `python tests/mutations.py` makes all these changes
again, each in a copy of the project, and writes this page.

| what was broken | in | first test that failed |
|---|---|---|
"""
# What is broken; the file; its text and the replacement; the test files, or single tests, below
# tests/ that should notice.
MUTATIONS = [
    ("losses: the sparse path ignores another label", "losses.py",
     "labelled = values != ignore\n",
     "labelled = values != ignore + 1\n",
     "test_losses.py::test_partial_cross_entropy_by_eye"),
    ("losses: cross-entropy is divided by all pixels instead of the labelled ones", "losses.py",
     "return (labels != ignore).count_nonzero().float()",
     "return torch.tensor(float(labels.numel()))",
     "test_losses.py::test_partial_cross_entropy_by_eye"),
    (("losses: with class weights, the divisor is the number of pixels instead of the sum of their "
     "weights"), "losses.py",
     "return (counts * weight).sum().float()",
     "return counts.sum().float()",
     "test_losses.py::test_class_weights_weigh_pixels_and_divide"),
    ("losses: a batch without labels gives 0 / 0", "losses.py",
     "return loss.sum() / _not_zero(num_labelled)",
     "return loss.sum() / num_labelled",
     "test_losses.py::test_nothing_labelled_costs_nothing_and_pulls_nowhere"),
    ("losses: Dice counts the prediction of unlabelled pixels", "losses.py",
     "labelled = (labels != ignore)[:, None]  # (P, 1)",
     "labelled = torch.ones_like(labels, dtype=torch.bool)[:, None]",
     "test_losses.py::test_dice_and_jaccard_by_eye"),
    ("metrics: labels that are no class are ignored instead of refused", "metrics.py",
     "others[self.ignore - self.classes] = 0",
     "others[:] = 0",
     "test_metrics.py::test_update__refuses_what_is_out_of_range_and_counts_nothing"),
    ("metrics: a class that is absent scores 0 and counts in mean IoU", "metrics.py",
     "return float(self.iou().nanmean())",
     "return float(self.iou().nan_to_num().mean())",
     "test_metrics.py::test_miou__absent_class_is_nan_and_not_in_the_mean"),
    ("metrics: rows of the confusion matrix are predicted classes", "metrics.py",
     "keys = truth * self.classes + prediction",
     "keys = prediction * self.classes + truth.clamp(max=self.classes - 1)",
     "test_metrics.py::test_update__counts_by_hand"),
    ("points: drawn anew at every visit", "data.py",
     "chosen = self.points[index]\n",
     ("candidates = np.flatnonzero(tile.reshape(-1) != self.ignore)\n"
     "                chosen = np.random.permutation(candidates)[:len(self.points[index])]\n"),
     "test_data.py::test_over_three_epochs_no_more_than_n_k_labelled_pixels_are_ever_seen"),
    ("points: drawn with an unseeded generator", "data.py",
     "np.random.default_rng([seed, index]).permutation(candidates)",
     "np.random.default_rng().permutation(candidates)",
     "test_points.py::test_the_same_call_gives_the_same_points"),
    ("points: the same in every tile", "data.py",
     "np.random.default_rng([seed, index]).permutation(candidates)",
     "np.random.default_rng([seed]).permutation(candidates)",
     "test_points.py::test_seeds_and_tiles_have_points_of_their_own"),
    ("points: another shuffle for each number of points, so not nested", "data.py",
     "np.random.default_rng([seed, index]).permutation(candidates)",
     "np.random.default_rng([seed, index, points]).permutation(candidates)",
     "test_points.py::test_points_are_nested"),
    ("points: per class, k of all instead of k of each", "data.py",
     'if per == "image":',
     'if per != "":',
     "test_points.py::test_per_class_draws_k_of_every_class_present"),
    ("points: the labelled pixels of a run are N * k instead of the sum of min(k, labelled)",
     "data.py",
     "self.labelled_pixels = int(self.class_counts.sum())",
     "self.labelled_pixels = points * len(self.images) or int(self.class_counts.sum())",
     "test_data.py::test_labelled_pixels_is_the_sum_of_min_k_labelled"),
    ("data: missing values stay NaN instead of becoming the band's mean", "data.py",
     "torch.where(values.isfinite(), values, 0.0)",
     "values",
     "test_data.py::test_missing_values_take_the_bands_mean"),
    ("data: the order of an epoch differs from run to run", "data.py",
     "np.random.default_rng([seed, epoch]).permutation(count)",
     "np.random.default_rng().permutation(count)",
     "test_data.py::test_epochs_visit_every_tile_once_in_an_order_of_their_own"),
    ("augmentation: the same in every epoch", "data.py",
     "np.random.default_rng([seed, epoch, int(place)])",
     "np.random.default_rng([seed, int(place)])",
     "test_data.py::test_augmentation_depends_on_seed_epoch_and_place_alone"),
    ("augmentation: labels are interpolated", "data.py",
     '"nearest", "zeros"',
     '"bilinear", "zeros"',
     "test_data.py::test_labels_are_moved_by_nearest_pixel"),
    ("augmentation: class 0 instead of no label beyond the tile", "data.py",
     "torch.where(values == 0, ignore, values - 1)",
     "torch.where(values == 0, 0, values - 1)",
     "test_data.py::test_a_crop_holds_the_only_label_of_its_tile"),
    ("augmentation: flips and shifts interpolate pixels instead of copying them", "data.py",
     "* tile / 2 + spare).round() - spare)",
     "* tile / 2 + spare) - spare)",
     "test_data.py::test_without_free_rotation_and_zoom_pixels_are_copied_and_not_blurred"),
    ("augmentation: a crop without a label is left where it was drawn", "data.py",
     "if not _sees_label(known, centre, turn, size):",
     "if False:",
     "test_data.py::test_a_crop_holds_the_only_label_of_its_tile"),
    ("training: each part of a batch is divided by its own labelled pixels", "train.py",
     "labels[part], num_labelled,",
     "labels[part], None,",
     "test_train.py::test_train_one_epoch__accumulating_equals_the_large_batch"),
    ("training: gradients are kept for the next step", "train.py",
     "run.optimizer.zero_grad()\n",
     "pass\n",
     "test_train.py::test_optimizer_step__clips_the_gradient_and_leaves_none"),
    ("training: gradients are not clipped", "train.py",
     "run.model.parameters(), GRADIENT_CLIP)",
     'run.model.parameters(), float("inf"))',
     "test_train.py::test_optimizer_step__clips_the_gradient_and_leaves_none"),
    ("training: the learning rate is one step late", "train.py",
     "return args.lr * (step + 1) / warm_up",
     "return args.lr * step / warm_up",
     "test_train.py::test_learning_rate__cosine_rises_then_falls_to_0"),
    ("training: weight decay applies to biases and batch norm too", "train.py",
     "args.weight_decay if is_matrix else 0.0",
     "args.weight_decay",
     "test_train.py::test_build_optimizer__decay_is_for_matrices_alone"),
    ("training: dropout does not depend on the step alone", "train.py",
     "torch.manual_seed(args.seed + done)",
     "pass",
     "test_train.py::test_main__dropout_is_a_function_of_the_step"),
    ("evaluation: the model stays in training mode", "evaluate.py",
     "    model.eval()\n",
     "",
     "test_evaluate.py::test_evaluate__leaves_batch_norm_alone"),
    ("weak labels: superpixels of each part are divided by its own labels", "weak/supervision.py",
     "self.class_weight,\n                self.num_labelled)",
     "self.class_weight,\n                None)",
     "weak/test_supervision.py::test_loss__parts_of_a_batch_add_up_and_every_term_has_a_gradient"),
    ("weak labels: the teacher's loss is divided by its confident pixels alone",
     "weak/supervision.py",
     "num_labelled=self.num_valid)",
     "num_labelled=None)",
     "weak/test_supervision.py::test_loss__the_teacher_is_divided_by_all_valid_pixels"),
    ("processes: each divides by its own labelled pixels", "train.py",
     "num_labelled = all_reduce(count_labelled(labels, run.class_weight))",
     "num_labelled = count_labelled(labels, run.class_weight)",
     "engine/test_distributed.py::test_data_parallel__two_processes_equal_one"),
    ("processes: gradients are averaged instead of added up", "train.py",
     "run.scaler.scale(loss * run.world_size)",
     "run.scaler.scale(loss)",
     "engine/test_distributed.py::test_data_parallel__two_processes_equal_one"),
    ("runs: log.csv is not cut back on resume", "engine/runs.py",
     "kept = lines[:epochs + 1] if epochs else []",
     "kept = lines",
     "engine/test_runs.py::test_cut_log__keeps_the_finished_epochs"),
    ("runs: best.pt holds the weights of the last step instead of their average",
     "engine/runs.py",
     "scored = run.ema_model or run.model",
     "scored = run.model",
     "engine/test_runs.py::test_save__the_average_is_what_is_kept_as_best"),
    ("runs: two processes may write to one folder", "engine/lock.py",
     "fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)",
     "pass",
     "engine/test_lock.py"),
    ("checkpoints: the checksum is not compared", "engine/checkpoint.py",
     "if digest != expected:",
     "if False:",
     "engine/test_checkpoint.py::test_load_checkpoint__checksum_covers_every_part"),
    ("checkpoints: a file may run code", "engine/checkpoint.py",
     "weights_only=True",
     "weights_only=False",
     "engine/test_checkpoint.py::test_load_checkpoint__refuses_other_files_in_one_line"),
    ("checkpoints: the old file is overwritten before the new one is complete",
     "engine/checkpoint.py",
     'temporary = f"{path}.tmp"',
     "temporary = str(path)",
     "engine/test_checkpoint.py::test_save_checkpoint__old_file_survives_a_full_disk"),
    ("data sets: the shapes of the arrays are not compared with dataset.json",
     "engine/prepared.py",
     "array.shape != tuple(shape) or ",
     "",
     "engine/test_meta.py::test_load_meta__arrays_that_do_not_fit_are_one_line"),
    ("preparing: mean and deviation are those of all tiles instead of the training tiles",
     "prepare_data.py",
     'if tile.split == "train":\n                statistics',
     "if tile.split:\n                statistics",
     "test_prepare_data.py::test_write_tiles__mean_and_std_are_those_of_the_training_pixels"),
    ("preparing: class 0 instead of no label where a tile is filled up", "prepare_data.py",
     "filling, constant_values=NO_LABEL)",
     "filling, constant_values=0)",
     "test_prepare_data.py::test_write_tiles__every_pixel_is_kept_once_where_tiles_csv_says"),
    ("preparing: masks are resized by averaging", "sources/scenes.py",
     "mask = ScaledRaster(scene.mask, source, smooth=False)",
     "mask = ScaledRaster(scene.mask, source, smooth=True)",
     "sources/test_scenes.py"),
    ("splits: no gap between blocks", "sources/splits.py",
     "start = end + BLOCK_GAP",
     "start = end - 1",
     "test_prepare_data.py::test_main__blocks_of_a_scene_never_touch"),
    ("splits: two seasons of a site are cut differently", "sources/splits.py",
     "[args.seed, *scene.site.encode()]",
     "[args.seed, *scene.name.encode()]",
     "sources/test_splits.py::test_cut_blocks__two_seasons_of_a_site_are_cut_alike"),
    ("splits: scenes of a site are drawn one by one", "sources/splits.py",
     ("drawn = dict(zip(sites, draw_splits(len(sites), fractions, seed)))\n"
     "    return [drawn[scene.site] for scene in source.scenes]"),
     "return draw_splits(len(source.scenes), fractions, seed)",
     "sources/test_splits.py::test_split_by_scene__scenes_of_a_site_are_drawn_together"),
    ("networks: the radius is a stride too small", "unet.py",
     "return reach + stem * stride - 1",
     "return reach - 1",
     "networks/test_networks.py::test_radius__holds_and_is_not_too_large"),
    ("windows: the margin is half the radius", "geo/windows.py",
     "if model.radius is None else model.radius",
     "if model.radius is None else model.radius // 2",
     "geo/test_windows.py::test_window_and_margin__defaults_hold_the_margins"),
    ("windows: they do not start on a multiple of the stride", "geo/windows.py",
     "return [*range(0, last, window - 2 * margin), last]",
     "return [*range(0, last, window - 2 * margin - 1), last - 1]",
     "geo/test_windows.py::test_window_origins__by_hand"),
    ("windows: a part of the margin is kept", "geo/windows.py",
     "[origin + margin for origin in origins[1:]]",
     "[origin for origin in origins[1:]]",
     "geo/test_windows.py::test_axis_windows__valid_parts_cover_the_axis"),
    ("windows: made smaller than their number allows", "geo/windows.py",
     "stride) + 2 * margin\n",
     "stride) + margin\n",
     "geo/test_windows.py::test_even_window__is_the_smallest_for_its_number"),
    ("windows: the decoder's maps are cropped two pixels too far", "geo/windows.py",
     "max(margin // factor - 3, 0)",
     "max(margin // factor - 1, 0)",
     "geo/test_windows.py::test_decoder_crops__by_hand"),
    ("georeference: the half pixel of PixelIsPoint is ignored when tie points move",
     "geo/georeference.py",
     ("pixels = ties[:, :2] + self.centre - (col, row)\n"
     "            ties[:, :2] = pixels / (across, down) - self.centre"),
     "ties[:, :2] = (ties[:, :2] - (col, row)) / (across, down)",
     "geo/test_georeference.py::test_window__lies_where_its_pixels_lay"),
    ("georeference: the offset of a window is lost", "geo/georeference.py",
     "ties[:, :2] + self.centre - (col, row)",
     "ties[:, :2] + self.centre",
     "geo/test_georeference.py::test_window__lies_where_its_pixels_lay"),
    ("rasters: nearest takes the first row of a block instead of the middle one",
     "geo/raster.py",
     "middle_row = min(factor // 2, down - 1)",
     "middle_row = 0",
     "geo/test_raster_classes.py::test_downscale_classes__by_eye"),
    ("training: the schedule starts again with every epoch", "train.py",
     "rate = learning_rate(args, done, args.epochs * run.steps)",
     "rate = learning_rate(args, done % run.steps, run.steps)",
     "test_meanings.py"),
    ("training: the rate of a step is that of the next", "train.py",
     "learning_rate(args, done, args.epochs",
     "learning_rate(args, done + 1, args.epochs",
     "test_meanings.py"),
    ("training: augmentation is that of the first epoch", "data.py",
     "images.shape[-1], how, seed, epoch, places",
     "images.shape[-1], how, seed, 0, places",
     "test_meanings.py"),
    ("training: validation sees points alone", "train.py",
     'TileDataset(args.data, "val")',
     'TileDataset(args.data, "val", args.points)',
     "test_meanings.py"),
    ("training: the average of the weights is counted anew in every epoch", "train.py",
     "args.ema, done + 1)",
     "args.ema, done % run.steps + 1)",
     "test_meanings.py"),
    ("training: the teacher starts anew in every epoch", "train.py",
     "done / (args.epochs * run.steps)",
     "batch.step / run.steps",
     "test_meanings.py"),
    ("training: the lowest score is the best", "train.py",
     "if score > run.best:",
     "if score < run.best or run.best < 0:",
     "test_meanings.py"),
    ("training: the last of equal scores is the best", "train.py",
     "if score > run.best:",
     "if score >= run.best:",
     "test_meanings.py"),
    ("evaluation: the loss is that of the last batch", "evaluate.py",
     "loss_sum = loss_sum + criterion(logits.float(), labels) * labelled",
     "loss_sum = criterion(logits.float(), labels) * labelled",
     "test_meanings.py"),
    ("data: uint16 is read as int16", "data.py",
     ".index_select(0, indices).view(torch.uint16)",
     ".index_select(0, indices)",
     "test_meanings.py"),
    ("augmentation: a shifted image is padded with zeros", "data.py",
     '"bilinear", "reflection"',
     '"bilinear", "zeros"',
     "test_meanings.py"),
    ("augmentation: rotation is in radians", "data.py",
     "math.radians(90 * quarter_turns + random.uniform(-how.rotate, how.rotate))",
     "math.radians(90 * quarter_turns) + random.uniform(-how.rotate, how.rotate)",
     "test_meanings.py"),
    ("augmentation: a crop moved onto a label lies between pixels", "data.py",
     "        centre = _to_whole_pixels(centre, tile, side)\n",
     "",
     "test_meanings.py"),
    ("rasters: premultiplied alpha is a band like others", "geo/raster.py",
     "page.extrasamples[-1] in (1, 2)",
     "page.extrasamples[-1] == 2",
     "test_meanings.py"),
    ("metrics: kappa's chance is of the truth alone", "metrics.py",
     "chance = (truth * predicted).sum()",
     "chance = (truth * truth).sum()",
     "test_meanings.py"),
    ("metrics: mean accuracy is the mean precision", "metrics.py",
     "float(self.recall().nanmean())",
     "float(self.precision().nanmean())",
     "test_meanings.py"),
    ("losses: focal weighs easy pixels most", "losses.py",
     "(-torch.expm1(-losses)) ** gamma * losses",
     "torch.exp(-losses) ** gamma * losses",
     "test_losses.py"),
    ("losses: Dice is a mean over absent classes too", "losses.py",
     "present = (truth > 0).to(score.dtype)",
     "present = torch.ones_like(score)",
     "test_losses.py"),
    ("losses: Jaccard's union counts the intersection twice", "losses.py",
     "_not_zero(predicted + truth - intersection)",
     "_not_zero(predicted + truth)",
     "test_losses.py"),
    ("losses: Dice is not divided by the parts of a batch", "losses.py",
     "loss = loss + LOSSES[term](logits, labels, ignore) / parts",
     "loss = loss + LOSSES[term](logits, labels, ignore)",
     "test_meanings.py"),
    ("losses: class weights sqrt are inverse", "losses.py",
     'exponent = 1.0 if how == "inverse" else 0.5',
     "exponent = 1.0",
     "test_losses.py"),
    ("metrics: IoU's union counts hits twice", "metrics.py",
     "hits / (truth + predicted - hits)",
     "hits / (truth + predicted)",
     "test_metrics.py"),
    ("networks: skip connections are joined in the wrong order", "unet.py",
     "x = merge(torch.cat([skips.pop(), up(x)], 1))",
     "x = merge(torch.cat([up(x), skips.pop()], 1))",
     "test_unet.py networks test_old_files.py"),
    ("networks: no ReLU after a residual block", "unet.py",
     """        y = self.bn2(self.conv2(y))
        return F.relu(y + self.downsample(x), inplace=True)""",
     """        y = self.bn2(self.conv2(y))
        return y + self.downsample(x)""",
     "test_unet.py networks"),
    ("networks: ResNet's first max pooling is 2 px wide", "unet.py",
     "x = F.max_pool2d(features[0], 3, stride=2, padding=1)",
     "x = F.max_pool2d(features[0], 2, stride=2)",
     "test_unet.py networks"),
    ("networks: a frozen encoder updates its batch norm", "unet.py",
     "return super().train(mode and not self.frozen)",
     "return super().train(mode)",
     "test_unet.py networks"),
    ("networks: the classifier's weights are as large as the other layers'", "unet.py",
     "    nn.init.normal_(classifier.weight, std=classifier.in_channels**-0.5)\n",
     "",
     "test_unet.py networks"),
    ("networks: attention is not scaled", "networks/segformer.py",
     "F.scaled_dot_product_attention(q, k, v)",
     "F.scaled_dot_product_attention(q, k, v, scale=1.0)",
     "networks/test_segformer.py"),
    ("weak labels: a superpixel of two classes takes the lower", "weak/superpixels.py",
     "np.where(lowest == highest, lowest, ignore)",
     "np.where(lowest < 255, lowest, ignore)",
     "weak"),
    ("weak labels: superpixels forget where they are", "weak/superpixels.py",
     "* (compactness / size)",
     "* 0.0",
     "weak"),
    ("weak labels: the teacher overrules labels", "weak/teacher.py",
     "return torch.where(labels != ignore, labels, guess).to(torch.uint8)",
     "return torch.where(guess != ignore, guess, labels).to(torch.uint8)",
     "weak"),
    ("weak labels: every class has the same threshold", "weak/teacher.py",
     "threshold * means / means.max().clamp(min=1e-6)",
     "threshold * torch.ones_like(means)",
     "weak"),
    ("weak labels: CutMix pastes targets of another image than the view's", "weak/teacher.py",
     "return torch.where(masks, values.roll(-1, 0), values)",
     "return torch.where(masks, values.roll(values.ndim - 5, 0), values)",
     "weak"),
    ("weak labels: batch-norm statistics stay out of the average", "weak/ema.py",
     "        ours.copy_(theirs)\n",
     "        pass\n",
     "weak"),
    ("weak labels: suggested points may touch", "weak/suggest.py",
     "scores[distances < distance ** 2] = -np.inf",
     "scores[distances == 0] = -np.inf",
     "weak"),
    ("weak labels: certain pixels are suggested first", "weak/suggest.py",
     "uncertainty = 1 - (first - second)",
     "uncertainty = first - second",
     "weak"),
    ("weak labels: the draw of a row depends on its block", "weak/suggest.py",
     "for row, row_scores in enumerate(scores, top):",
     "for row, row_scores in enumerate(scores):",
     "weak"),
    ("windows: mirrored views are not turned back", "geo/windows.py",
     "probabilities.flip(mirrored).rot90(-turns, (2, 3))",
     "probabilities.rot90(-turns, (2, 3)).flip(mirrored)",
     "geo/test_windows.py"),
    ("windows: symmetries average logits", "geo/windows.py",
     "logits_inside(model, view, margin).softmax(1)",
     "logits_inside(model, view, margin)",
     "geo/test_windows.py"),
    ("georeference: rows go up the map", "geo/georeference.py",
     "return width, 0.0, left, 0.0, -height, top",
     "return width, 0.0, left, 0.0, height, top",
     "geo/test_georeference.py"),
    ("georeference: to_pixel returns columns first", "geo/georeference.py",
     "return (a * y - d * x) / area, (e * x - b * y) / area",
     "return (e * x - b * y) / area, (a * y - d * x) / area",
     "geo/test_georeference.py"),
    ("splits: what is named for neither validates", "sources/splits.py",
     'named.get(scene.site, "train")',
     'named.get(scene.site, "val")',
     "sources/test_splits.py test_prepare_data.py"),
    ("splits: polygons that touch at a corner are two", "sources/splits.py",
     "                    if pixel in left:",
     "                    if pixel in left and down * right == 0:",
     "sources"),
    ("splits: shares are not what was asked for", "engine/prepared.py",
     "ends = np.round(np.cumsum(fractions) / sum(fractions) * count)",
     "ends = np.round(np.arange(1, 4) / 3 * count)",
     "engine/test_prepared.py"),
    ("data sets: the digest is not compared", "engine/prepared.py",
     "if digest != stated:",
     "if False:",
     "engine/test_prepared.py"),
    ("data sets: changed files are not looked at", "engine/prepared.py",
     'if not changed and now.get("files") != known.get("files"):',
     "if False:",
     "engine/test_prepared.py"),
    ("data sets: deviation is variance", "engine/prepared.py",
     "std = np.sqrt(np.maximum(self.squares / count - mean ** 2, 0))",
     "std = np.maximum(self.squares / count - mean ** 2, 0)",
     "engine/test_prepared.py"),
    ("data sets: left-overs of another set are removed", "engine/prepared.py",
     'if path.name.startswith(f"{out.name}.partial-"):',
     'if ".partial-" in path.name:',
     "engine/test_prepared.py"),
    ("runs: a folder is looked at before it is locked alone", "engine/runs.py",
     "        check_free(folder, args.resume)  # again: a run may have come and gone\n",
     "",
     "engine/test_runs.py"),
    ("runs: a lost folder is not noticed at a checkpoint", "engine/runs.py",
     "    run.check_folder()\n    train = {",
     "    train = {",
     "engine/test_runs.py"),
    ("runs: a lock on a removed file counts", "engine/lock.py",
     "if _is_at_its_path(file):",
     "if True:",
     "engine/test_lock.py"),
    ("runs: plateau's state is lost on resume", "engine/runs.py",
     "    scheduler.load_state_dict(saved)\n",
     "",
     "engine/test_runs.py test_train.py"),
    ("runs: the rate is not restored on resume", "engine/runs.py",
     '        group["lr"] = float(before["lr"])\n',
     "",
     "engine/test_runs.py test_train.py"),
    ("searches: the worst settings go on", "engine/search.py",
     "key=lambda cell: -cell.best(epoch)",
     "key=lambda cell: cell.best(epoch)",
     "engine/test_search.py test_sweep.py"),
    ("searches: ranges are drawn evenly", "engine/search.py",
     "math.exp(generator.uniform(math.log(low), math.log(high)))",
     "generator.uniform(low, high)",
     "engine/test_search.py"),
    ("sweeps: a damaged log is kept", "sweep.py",
     "        for name in names:\n",
     "        for name in ():\n",
     "test_sweep.py"),
    ("command lines: a limit is not allowed itself", "engine/cli.py",
     "not low <= value <= most",
     "not low < value <= most",
     "engine/test_cli.py"),
    ("command lines: a signal ends with 0", "engine/cli.py",
     'f"interrupted; {interrupted}", 130)',
     'f"interrupted; {interrupted}", 0)',
     "engine/test_cli.py"),
    ("statistics: unlabelled pixels are a class at boundaries", "report/stats.py",
     "highest = _window_max(torch.where(labelled, classes, -1), reach)",
     "highest = _window_max(classes, reach)",
     "report/test_stats.py"),
    ("statistics: tiles that touch at a corner are apart", "report/stats.py",
     "touching = (abs(corners - corners[tile]) <= side).all(1)",
     "touching = abs(corners - corners[tile]).sum(1) <= side",
     "report/test_stats.py"),
    ("areas: the sample's classes are transposed", "report/areas.py",
     "np.asarray(counts, np.float64).T[is_mapped]",
     "np.asarray(counts, np.float64)[is_mapped]",
     "report/test_areas.py"),
]


class Failures:
    """A pytest plugin that lists the tests that failed."""

    def __init__(self):
        self.names = []

    def pytest_runtest_logreport(self, report):
        """Called by pytest after each part of each test."""
        if report.failed:
            self.names.append(report.nodeid.removeprefix("tests/"))


def not_copied(folder, names):
    """The names in a folder that a copy of the project does without."""
    return NOT_COPIED if pathlib.Path(folder) == TESTS.parent else {"__pycache__"}


def first_failure(mutation):
    """Break a copy of the project in one place and run its tests.

    Returns:
        the first test that fails there, or None if all pass.
    Raises:
        ValueError: the text to replace is not in its file exactly once.
        RuntimeError: the tests could not be run, which proves nothing.
    """
    _, name, text, replacement, tests = mutation
    with tempfile.TemporaryDirectory() as place:
        folder = shutil.copytree(TESTS.parent, pathlib.Path(place, "copy"), ignore=not_copied)
        content = (folder / name).read_text(encoding="utf-8")
        if content.count(text) != 1:
            raise ValueError(f"{name} holds {content.count(text)} times, and not once: {text!r}")
        (folder / name).write_text(content.replace(text, replacement), encoding="utf-8")
        os.chdir(folder)
        failures = Failures()
        files = [f"tests/{test}" for test in tests.split()]
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", *files], plugins=[failures])
        os.chdir(TESTS)
    if code not in (0, 1) or code != len(failures.names):
        raise RuntimeError(printed.getvalue())
    return failures.names[0] if failures.names else None


def main(word=""):
    """Try mutations, each in its own process, and write README.md if all; returns the exit code."""
    rows = []
    survivors = 0
    mutations = [mutation for mutation in MUTATIONS if word in mutation[0]]
    all_tests = " ".join(sorted({mutation[-1] for mutation in mutations}))
    _, name, text, _, _ = MUTATIONS[0]
    # Forked processes have imported torch already.
    with multiprocessing.get_context("fork").Pool(2, maxtasksperchild=1) as pool:
        failed = pool.apply(first_failure, [("nothing", name, text, text, all_tests)])
        if failed:
            raise RuntimeError(f"{failed} fails with nothing broken: repair it first")
        results = pool.imap(first_failure, mutations)
        for (what, name, *_), failed in zip(mutations, results):
            survivors += failed is None
            test = f"`{failed}`" if failed else "**none**"
            rows.append(f"| {what} | `{name}` | {test} |")
            print(rows[-1], flush=True)
    if not word:
        (TESTS / "README.md").write_text(HEAD + "\n".join(rows) + "\n", encoding="utf-8")
    return int(survivors > 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
