"""The table of inputs is made by its command, and a row shows whether labels are right."""

import inputs


def test_rows__are_forty_and_stand_in_the_page():
    page = inputs.PAGE.read_text(encoding="utf-8")
    table = page.split(inputs.START)[1].split(inputs.END)[0].splitlines()[2:]
    titles = [line.split(" | ")[1] for line in table]
    assert titles == [title for _, title, _ in inputs.ROWS] and len(titles) == 40
    assert not any("WRONG" in line for line in table)


def test_describe__compares_the_labels_with_what_was_made(tmp_path):
    def inverted(folder):
        words, right = inputs.mask_of_ids(folder)
        return words, 1 - right

    outcome = inputs.describe(tmp_path / "a", lambda folder: made(folder, inputs.mask_of_ids))
    assert outcome == "read: 4,096 px labelled, all right"
    outcome = inputs.describe(tmp_path / "b", lambda folder: made(folder, inverted))
    assert outcome.startswith("read: 4,096 px labelled, 4,096 WRONG")
    outcome = inputs.describe(tmp_path / "c", lambda folder: made(folder, inputs.mask_of_jpeg))
    assert outcome.startswith("refused: masks/s.jpg: value ") or "--threshold" in outcome


def made(folder, maker):
    folder.mkdir()
    return maker(folder)


